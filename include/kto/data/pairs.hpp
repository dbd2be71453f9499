// SPDX-License-Identifier: Apache-2.0
// For losses of pairs: puts the two rows of each pair side by side again, which reading a paired data set parts.
#pragma once

#include <cstddef>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kto/core/error.hpp"
#include "kto/data/example.hpp"

namespace kto {

/// Rows as chosen, rejected, chosen, rejected, ..., in the order of the chosen ones; Example::row says which belong
/// together. A row whose partner is missing (dropped, its prompt fills max_length) is left out. Throws Error when a row
/// number has two rows of one label, or when no pair is left.
inline std::vector<Example> pair_up(std::vector<Example> rows) {
  std::unordered_map<std::size_t, std::size_t> rejected;
  for (std::size_t i = 0; i < rows.size(); ++i)
    if (!rows[i].label)
      check(rejected.emplace(rows[i].row, i).second, "row ", rows[i].row, " has two rejected completions");
  std::vector<Example> out;
  for (Example& row : rows) {
    if (!row.label) continue;
    const auto partner = rejected.find(row.row);
    if (partner == rejected.end()) continue;
    Example& other = rows[partner->second];
    check(!other.completion_ids.empty(), "row ", row.row, " has two chosen completions");
    out.push_back(std::move(row));
    out.push_back(std::exchange(other, {}));
  }
  check(!out.empty(), "no row has both a chosen and a rejected completion");
  return out;
}

}  // namespace kto
