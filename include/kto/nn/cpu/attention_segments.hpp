// SPDX-License-Identifier: Apache-2.0
// Segments as blocked attention goes through them: which keys each sees, which of them must not be worked on at once, and
// where the gradients of keys that several see are summed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "kto/nn/cpu/attention_blocks.hpp"

namespace kto::detail {

// Shapes as in attention_blocks.hpp; M rows of gradients: N of keys, then those of prefixes.

/// The segments with their keys: their own tokens after the prefix, or with `keys` those alone.
inline std::vector<KeyedSegment> with_keys(const std::vector<Segment>& segments, const std::vector<KeyRange>& keys) {
  std::vector<KeyedSegment> out;
  out.reserve(segments.size());
  for (std::size_t s = 0; s < segments.size(); ++s) {
    const Segment& segment = segments[s];
    if (keys.empty())
      out.push_back({segment, {segment.begin, segment.length}});
    else
      out.push_back({{segment.begin, segment.length}, keys[s]});
  }
  return out;
}

/// The numbers of segments that see the same keys of their own are one group. Groups with the most to do come first.
inline std::vector<std::vector<std::size_t>> groups_by_keys(const std::vector<KeyedSegment>& segments) {
  struct Group {
    std::vector<std::size_t> members;
    std::vector<KeyRange> keys;
    std::int64_t cost = 0;
  };
  const auto overlap = [](const KeyRange& a, const KeyRange& b) {
    return std::max(a.begin, b.begin) < std::min(a.begin + a.length, b.begin + b.length);
  };
  std::vector<Group> groups;
  for (std::size_t s = 0; s < segments.size(); ++s) {
    const KeyedSegment& segment = segments[s];
    Group joined{{}, {segment.own}, segment.length * (segment.prefix_length + segment.own.length / 2)};
    std::erase_if(groups, [&](const Group& group) {
      if (std::ranges::none_of(group.keys, [&](const KeyRange& keys) { return overlap(keys, segment.own); }))
        return false;
      joined.members.insert(joined.members.end(), group.members.begin(), group.members.end());
      joined.keys.insert(joined.keys.end(), group.keys.begin(), group.keys.end());
      joined.cost += group.cost;
      return true;
    });
    joined.members.push_back(s);
    groups.push_back(std::move(joined));
  }
  std::ranges::stable_sort(groups, std::ranges::greater{}, &Group::cost);
  std::vector<std::vector<std::size_t>> out;
  out.reserve(groups.size());
  for (Group& group : groups) out.push_back(std::move(group.members));
  return out;
}

/// Gives each segment with a prefix rows of its own, behind the `num_rows` of the keys, for the gradients of its prefix's
/// keys, which other segments have, too: so no two tasks add to the same numbers. Returns how many rows there are then.
inline std::int64_t give_room_for_prefixes(std::vector<KeyedSegment>& segments, std::int64_t num_rows) {
  for (KeyedSegment& segment : segments) {
    if (segment.prefix_length == 0) continue;
    segment.to_prefix_grad = num_rows - segment.prefix_begin;
    num_rows += segment.prefix_length;
  }
  return num_rows;
}

/// The gradients of keys [N, K, d] or values, from those with room for prefixes.
inline Tensor with_those_of_prefixes(const Tensor& grad_MKd, const std::vector<KeyedSegment>& segments,
                                     std::int64_t num_rows) {
  for (const KeyedSegment& segment : segments)
    if (segment.to_prefix_grad > 0)
      grad_MKd.narrow(0, segment.prefix_begin, segment.prefix_length)
          .add_(grad_MKd.narrow(0, segment.prefix_begin + segment.to_prefix_grad, segment.prefix_length));
  return grad_MKd.narrow(0, 0, num_rows);
}

}  // namespace kto::detail
