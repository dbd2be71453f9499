// SPDX-License-Identifier: Apache-2.0
// Where the segments of a row begin, as LibTorch's attention over sequences of different lengths takes them: queries
// lie segment by segment already; keys are gathered so that each segment's prefix precedes its own, or so that each
// range of keys follows that of the segment before.
#pragma once

#include <utility>

#include "kto/core/device.hpp"
#include "kto/nn/row_layout.hpp"

namespace kto::detail {

// Shapes: N tokens of the row, R rows of keys (the row's, or an encoder's), P of a prefix, S segments, M keys of all
// segments, those that segments share counted for each.

struct PackedLayout {
  RowSegments what;
  Tensor query_starts, key_starts;  ///< int32 [S + 1]
  Tensor key_M;                     ///< int64, see gathered; undefined if the keys are the R rows, in their order
  std::int64_t longest_query = 0, longest_key = 0;

  explicit PackedLayout(RowSegments of);

  /// Keys or values by segment, from the rows [R, ..] and those that prefixes are of [P, ..] (undefined: the row's).
  Tensor gathered(const Tensor& rows_R, const Tensor& prefix_P) const {
    if (!key_M.defined()) return rows_R;
    return (what.own_prefix ? rows_R : at::cat({rows_R, prefix_P})).index_select(0, key_M);
  }
  /// The gradient of the keys' or values' rows [R, ..] from that of the gathered ones, with sums in float32 or wider.
  Tensor scattered(const Tensor& grad_M, std::int64_t num_prefix) const {
    if (!key_M.defined()) return grad_M;
    std::vector<std::int64_t> sizes = grad_M.sizes().vec();
    sizes[0] = what.num_rows + (what.own_prefix ? 0 : num_prefix);
    const auto type = wide_type(grad_M.scalar_type());
    const Tensor sums = at::zeros(sizes, grad_M.options().dtype(type)).index_add_(0, key_M, grad_M.to(type));
    return sums.narrow(0, 0, what.num_rows).to(grad_M.scalar_type());
  }
};

inline PackedLayout::PackedLayout(RowSegments of) : what(std::move(of)) {
  std::vector<std::int32_t> queries{0}, starts{0};
  std::vector<std::int64_t> keys;
  const auto add = [&](std::int64_t begin, std::int64_t length) {
    for (std::int64_t i = 0; i < length; ++i) keys.push_back(begin + i);
  };
  for (std::size_t s = 0; s < what.segments.size(); ++s) {
    const auto& [begin, length, prefix_begin, prefix_length] = what.segments[s];
    const std::size_t before = keys.size();
    if (what.ranges.empty()) {
      add((what.own_prefix ? 0 : what.num_rows) + prefix_begin, prefix_length);
      add(begin, length);
    } else {
      add(what.ranges[s].begin, what.ranges[s].length);
    }
    const auto num_keys = static_cast<std::int64_t>(keys.size() - before);
    queries.push_back(queries.back() + static_cast<std::int32_t>(length));
    starts.push_back(starts.back() + static_cast<std::int32_t>(num_keys));
    longest_query = std::max(longest_query, length);
    longest_key = std::max(longest_key, num_keys);
  }
  query_starts = to_device(queries, what.device);
  key_starts = to_device(starts, what.device);
  bool in_order = static_cast<std::int64_t>(keys.size()) == what.num_rows;
  for (std::size_t i = 0; in_order && i < keys.size(); ++i) in_order = keys[i] == static_cast<std::int64_t>(i);
  if (!in_order) key_M = to_device(keys, what.device);
}

}  // namespace kto::detail
