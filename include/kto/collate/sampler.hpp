// SPDX-License-Identifier: Apache-2.0
// The order in which rows are visited: sequential, shuffled again each epoch, or grouped by length. An order depends on
// (seed, epoch) alone, so a resumed run finds the one it left.
#pragma once

#include <algorithm>
#include <numeric>
#include <span>
#include <vector>

#include "kto/core/torch.hpp"

namespace kto {

/// 0, 1, ..., n - 1.
inline std::vector<std::size_t> sequential_order(std::size_t n) {
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
  return order;
}

/// A permutation of 0..n-1: torch.randperm under a generator seeded with seed + epoch, the order that transformers'
/// Trainer visits (accelerate's seedable sampler).
inline std::vector<std::size_t> shuffled_order(std::size_t n, std::uint64_t seed, std::uint64_t epoch) {
  const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed + epoch);
  const Tensor permutation = at::randperm(static_cast<std::int64_t>(n), generator, at::kLong);
  const auto* data = permutation.const_data_ptr<std::int64_t>();
  return {data, data + n};
}

/// Rows of like length stand together: a shuffled order is cut into runs of 50 batches, each sorted by falling length,
/// and the longest batch comes first, so that running out of memory shows at once. `lengths` in tokens, one a row.
inline std::vector<std::size_t> length_grouped_order(std::span<const std::int64_t> lengths, std::size_t batch_size,
                                                     std::uint64_t seed, std::uint64_t epoch) {
  const std::size_t n = lengths.size();
  auto order = shuffled_order(n, seed, epoch);
  const std::size_t run = std::max<std::size_t>(batch_size, std::min<std::size_t>(n / 4, batch_size * 50));
  const auto longer = [&](std::size_t a, std::size_t b) { return lengths[a] > lengths[b]; };
  for (std::size_t begin = 0; begin < n; begin += run)
    std::stable_sort(order.begin() + static_cast<std::ptrdiff_t>(begin),
                     order.begin() + static_cast<std::ptrdiff_t>(std::min(begin + run, n)), longer);
  if (n > 0) {
    const auto longest = std::ranges::min_element(order, longer);
    const auto start = (longest - order.begin()) / static_cast<std::ptrdiff_t>(run) * static_cast<std::ptrdiff_t>(run);
    const auto stop = std::min(start + static_cast<std::ptrdiff_t>(run), static_cast<std::ptrdiff_t>(n));
    if (stop - start == static_cast<std::ptrdiff_t>(run))  // a short last run must stay last, or batches lose alignment
      std::rotate(order.begin(), order.begin() + start, order.begin() + stop);
  }
  return order;
}

/// The sizes of batches that take units in `order` until the next one would pass `max_tokens`, one unit at least and
/// `max_units` at most. `lengths` in tokens, one a unit.
inline std::vector<std::size_t> token_groups(std::span<const std::size_t> order, std::span<const std::int64_t> lengths,
                                             std::int64_t max_tokens, std::size_t max_units) {
  std::vector<std::size_t> sizes;
  std::int64_t tokens = 0;
  for (const std::size_t unit : order) {
    tokens += lengths[unit];
    if (sizes.empty() || sizes.back() == max_units || tokens > max_tokens) {
      sizes.push_back(0);
      tokens = lengths[unit];
    }
    ++sizes.back();
  }
  return sizes;
}

}  // namespace kto
