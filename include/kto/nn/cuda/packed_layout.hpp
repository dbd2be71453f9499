// SPDX-License-Identifier: Apache-2.0
// Where the segments of a row begin, as LibTorch's attention over sequences of different lengths takes them: queries
// lie segment by segment already; keys are gathered so that each segment's prefix precedes its own.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <vector>

#include "kto/collate/batch.hpp"
#include "kto/core/device.hpp"

namespace kto::detail {

// Shapes: N tokens of the row, S segments, M keys of all segments, prefixes counted for each.

struct PackedLayout {
  std::vector<Segment> segments;
  bool own_prefix = true;  ///< whether prefixes are tokens of the row itself
  at::Device device = at::kCPU;
  Tensor query_starts, key_starts;  ///< int32 [S + 1]
  Tensor key_M;                     ///< int64, see gathered; undefined if the keys are the row's, in its order
  std::int64_t longest_query = 0, longest_key = 0;

  bool is_of(const std::vector<Segment>& others, bool own, at::Device where) const {
    return own == own_prefix && where == device && others == segments;
  }
  /// Keys or values by segment, from the row's [N, ..] and those that prefixes are of [P, ..] (undefined: the row's).
  Tensor gathered(const Tensor& row_N, const Tensor& prefix_P) const {
    if (!key_M.defined()) return row_N;
    return (own_prefix ? row_N : at::cat({row_N, prefix_P})).index_select(0, key_M);
  }
  /// The gradient of the row's keys or values [N, ..] from that of the gathered ones, with sums in float32 or wider.
  Tensor scattered(const Tensor& grad_M, std::int64_t num_tokens, std::int64_t num_prefix) const {
    if (!key_M.defined()) return grad_M;
    std::vector<std::int64_t> sizes = grad_M.sizes().vec();
    sizes[0] = num_tokens + (own_prefix ? 0 : num_prefix);
    const auto type = wide_type(grad_M.scalar_type());
    const Tensor sums = at::zeros(sizes, grad_M.options().dtype(type)).index_add_(0, key_M, grad_M.to(type));
    return sums.narrow(0, 0, num_tokens).to(grad_M.scalar_type());
  }
};

inline PackedLayout make_packed_layout(const std::vector<Segment>& segments, bool own_prefix, at::Device device) {
  PackedLayout out;
  out.segments = segments;
  out.own_prefix = own_prefix;
  out.device = device;
  std::vector<std::int32_t> query_starts{0}, key_starts{0};
  std::vector<std::int64_t> keys;
  std::int64_t num_tokens = 0;
  for (const Segment& segment : segments) num_tokens += segment.length;
  for (const auto& [begin, length, prefix_begin, prefix_length] : segments) {
    const std::int64_t first = (own_prefix ? 0 : num_tokens) + prefix_begin;
    for (std::int64_t i = 0; i < prefix_length; ++i) keys.push_back(first + i);
    for (std::int64_t i = 0; i < length; ++i) keys.push_back(begin + i);
    query_starts.push_back(query_starts.back() + static_cast<std::int32_t>(length));
    key_starts.push_back(key_starts.back() + static_cast<std::int32_t>(prefix_length + length));
    out.longest_query = std::max(out.longest_query, length);
    out.longest_key = std::max(out.longest_key, prefix_length + length);
  }
  const auto sent = [&](const auto& values) { return to_device(at::tensor(at::ArrayRef(values)), device); };
  out.query_starts = sent(query_starts);
  out.key_starts = sent(key_starts);
  const bool has_prefix = std::ranges::any_of(segments, [](const Segment& s) { return s.prefix_length > 0; });
  if (has_prefix) out.key_M = sent(keys);
  return out;
}

/// The layout of `segments`. The layers of a pass share one, and so do the policy and its reference: the last few are
/// kept, for as long as the process lives (a destructor would meet a device that is gone).
inline std::shared_ptr<const PackedLayout> packed_layout(const std::vector<Segment>& segments, bool own_prefix,
                                                         at::Device device) {
  struct Memo {
    std::mutex mutex;
    std::array<std::shared_ptr<const PackedLayout>, 4> layouts;  // the newest first
  };
  static Memo& memo = *new Memo;
  const std::lock_guard lock(memo.mutex);
  const auto is_it = [&](const auto& layout) { return layout && layout->is_of(segments, own_prefix, device); };
  const auto found = std::ranges::find_if(memo.layouts, is_it);
  if (found != memo.layouts.end()) return *found;
  std::ranges::rotate(memo.layouts, memo.layouts.end() - 1);
  memo.layouts[0] = std::make_shared<const PackedLayout>(make_packed_layout(segments, own_prefix, device));
  return memo.layouts[0];
}

}  // namespace kto::detail
