// SPDX-License-Identifier: Apache-2.0
// For losses of pairs: puts the two rows of each pair, which reading a paired data set parts, side by side again.
#pragma once

#include <algorithm>
#include <cstddef>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kto/core/error.hpp"
#include "kto/data/example.hpp"

namespace kto {

/// Gives both rows of a pair one prompt: the tokens that theirs begin with alike. A token that belongs to the prompt of
/// one row alone, since tokens merge across its end in the other, goes to the completion, as in TRL's DPOTrainer.
inline void share_prompt(Example& chosen, Example& rejected) {
  const auto [end, unused] = std::ranges::mismatch(chosen.prompt_ids, rejected.prompt_ids);
  const auto length = end - chosen.prompt_ids.begin();
  for (Example* row : {&chosen, &rejected}) {
    row->completion_ids.insert(row->completion_ids.begin(), row->prompt_ids.begin() + length, row->prompt_ids.end());
    row->prompt_ids.resize(static_cast<std::size_t>(length));
  }
}

/// Rows as chosen, rejected, chosen, rejected, ..., in the order of the chosen ones, each pair with one prompt;
/// Example::row says which belong together. A row whose partner is missing is left out. Throws Error when a row number
/// has two rows of one label, or when there is no pair.
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
    share_prompt(row, other);
    out.push_back(std::move(row));
    out.push_back(std::exchange(other, {}));
  }
  check(!out.empty(), "no row has both a chosen and a rejected completion");
  return out;
}

}  // namespace kto
