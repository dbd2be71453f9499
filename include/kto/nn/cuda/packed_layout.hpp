// SPDX-License-Identifier: Apache-2.0
// Where the segments of a row begin, as LibTorch's attention over sequences of different lengths takes them: queries
// lie segment by segment already; keys are gathered so that each segment's prefix precedes its own, or so that each
// range of keys follows that of the segment before.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <vector>

#include "kto/collate/batch.hpp"
#include "kto/core/device.hpp"

namespace kto::detail {

// Shapes: N tokens of the row, R rows of keys (the row's, or an encoder's), P of a prefix, S segments, M keys of all
// segments, those that segments share counted for each.

/// What a layout is made of.
struct PackedWhat {
  std::vector<Segment> segments;
  std::vector<KeyRange> ranges = {};  ///< the keys of each segment; empty: causal
  std::int64_t num_rows = 0;          ///< R
  bool own_prefix = true;             ///< whether prefixes are tokens of the row itself
  at::Device device = at::kCPU;
  friend bool operator==(const PackedWhat&, const PackedWhat&) = default;
};

struct PackedLayout {
  PackedWhat what;
  Tensor query_starts, key_starts;  ///< int32 [S + 1]
  Tensor key_M;                     ///< int64, see gathered; undefined if the keys are the R rows, in their order
  std::int64_t longest_query = 0, longest_key = 0;

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

inline PackedLayout make_packed_layout(const PackedWhat& what) {
  PackedLayout out;
  out.what = what;
  std::vector<std::int32_t> query_starts{0}, key_starts{0};
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
    query_starts.push_back(query_starts.back() + static_cast<std::int32_t>(length));
    key_starts.push_back(key_starts.back() + static_cast<std::int32_t>(num_keys));
    out.longest_query = std::max(out.longest_query, length);
    out.longest_key = std::max(out.longest_key, num_keys);
  }
  out.query_starts = to_device(query_starts, what.device);
  out.key_starts = to_device(key_starts, what.device);
  bool in_order = static_cast<std::int64_t>(keys.size()) == what.num_rows;
  for (std::size_t i = 0; in_order && i < keys.size(); ++i) in_order = keys[i] == static_cast<std::int64_t>(i);
  if (!in_order) out.key_M = to_device(keys, what.device);
  return out;
}

/// The layout of `what`. The layers of a pass share one, and so do the policy and its reference: the last few are kept,
/// for as long as the process lives (a destructor would meet a device that is gone).
inline std::shared_ptr<const PackedLayout> packed_layout(const PackedWhat& what) {
  struct Memo {
    std::mutex mutex;
    std::array<std::shared_ptr<const PackedLayout>, 4> layouts;  // the newest first
  };
  static Memo& memo = *new Memo;
  const std::lock_guard lock(memo.mutex);
  const auto found = std::ranges::find_if(memo.layouts, [&](const auto& one) { return one && one->what == what; });
  if (found != memo.layouts.end()) return *found;
  std::ranges::rotate(memo.layouts, memo.layouts.end() - 1);
  memo.layouts[0] = std::make_shared<const PackedLayout>(make_packed_layout(what));
  return memo.layouts[0];
}

}  // namespace kto::detail
