// SPDX-License-Identifier: Apache-2.0
// KL pairing: which other row lends its completion to a row's prompt, so that the pair is mismatched (KTO, eq. 8).
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

namespace kto {

/// The sizes of groups of `group` rows, the last one maybe short. `group` >= 1.
inline std::vector<std::size_t> even_groups(std::size_t num_rows, std::size_t group) {
  std::vector<std::size_t> sizes(num_rows / group, group);
  if (num_rows % group != 0) sizes.push_back(num_rows % group);
  return sizes;
}

/// Within each group of rows, whose sizes `groups` are, the completions move on by one: row i takes the completion of
/// row i - 1, the first that of the last. A group of one row pairs with itself. Returns, for each place, the row that
/// lends. `order` are row numbers in the order of training.
inline std::vector<std::size_t> kl_partners(std::span<const std::size_t> order, std::span<const std::size_t> groups) {
  std::vector<std::size_t> partners(order.begin(), order.end());
  auto first = partners.begin();
  for (const std::size_t size : groups) {
    const auto last = first + static_cast<std::ptrdiff_t>(size);
    std::rotate(first, last - 1, last);
    first = last;
  }
  return partners;
}

/// The same for groups of `group` rows.
inline std::vector<std::size_t> kl_partners(std::span<const std::size_t> order, std::size_t group) {
  return kl_partners(order, even_groups(order.size(), group));
}

}  // namespace kto
