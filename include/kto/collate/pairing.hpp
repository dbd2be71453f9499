// SPDX-License-Identifier: Apache-2.0
// KL pairing: which other row lends its completion to a row's prompt, so that the pair is mismatched (KTO, eq. 8).
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

namespace kto {

/// Within each run of `group` rows of `order` the completions move on by one: row i takes the completion of row i - 1,
/// the first that of the last. A group of one row pairs with itself. Returns, for each place, the row that lends.
/// `order` are row numbers in the order of training; `group` >= 1.
inline std::vector<std::size_t> kl_partners(std::span<const std::size_t> order, std::size_t group) {
  std::vector<std::size_t> partners(order.begin(), order.end());
  for (std::size_t begin = 0; begin < partners.size(); begin += group) {
    const auto first = partners.begin() + static_cast<std::ptrdiff_t>(begin);
    const auto last = partners.begin() + static_cast<std::ptrdiff_t>(std::min(begin + group, partners.size()));
    std::rotate(first, last - 1, last);
  }
  return partners;
}

}  // namespace kto
