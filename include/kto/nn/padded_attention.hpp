// SPDX-License-Identifier: Apache-2.0
// Causal attention of all segments of a row at once, as a batch padded to the longest of them, from LibTorch's operators:
// for devices without a kernel for segments, on which starting the kernels of each segment takes longer than running
// them. Its oracle is attention_composed.
#pragma once

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "kto/core/device.hpp"
#include "kto/nn/composed_attention.hpp"
#include "kto/nn/row_layout.hpp"

namespace kto::detail {

// Shapes: N tokens of the row, S segments, L queries of the longest, M keys of the longest, prefix counted; H heads, K
// key/value heads, d head dimension.

/// Where the tokens of a row are in the batch, and which keys its queries see.
struct PaddedLayout {
  RowSegments what;
  std::int64_t longest_query = 0, longest_key = 0;
  // int64. Padding repeats a segment's last token, and sees as many keys as there are.
  Tensor query;    ///< [S * L], the token of each query
  Tensor key;      ///< [S * M], that of each key
  Tensor last_SL;  ///< the last key that the query sees
  Tensor token_N;  ///< the query that each token is

  explicit PaddedLayout(RowSegments of);

  /// [S, 1, L, M] of bool, true where a query sees a key.
  Tensor mask(std::optional<std::int64_t> window) const {
    const Tensor key_M = at::arange(longest_key, last_SL.options()), last_S1L1 = last_SL.unsqueeze(1).unsqueeze(-1);
    const Tensor seen = key_M <= last_S1L1;
    return window && *window < longest_key ? seen.logical_and(key_M > last_S1L1 - *window) : seen;
  }
};

inline PaddedLayout::PaddedLayout(RowSegments of) : what(std::move(of)) {
  for (const Segment& segment : what.segments) {
    longest_query = std::max(longest_query, segment.length);
    longest_key = std::max(longest_key, segment.prefix_length + segment.length);
  }
  std::vector<std::int64_t> queries, keys, last, token;
  for (const auto& [begin, length, prefix_begin, prefix_length] : what.segments) {
    for (std::int64_t i = 0; i < length; ++i) token.push_back(static_cast<std::int64_t>(queries.size()) + i);
    for (std::int64_t i = 0; i < longest_query; ++i) {
      queries.push_back(begin + std::min(i, length - 1));
      last.push_back(i < length ? prefix_length + i : longest_key - 1);
    }
    for (std::int64_t i = 0; i < longest_key; ++i)
      keys.push_back(i < prefix_length ? (what.own_prefix ? 0 : what.num_rows) + prefix_begin + i
                                       : begin + std::min(i - prefix_length, length - 1));
  }
  query = to_device(queries, what.device);
  key = to_device(keys, what.device);
  last_SL = to_device(last, what.device).view({-1, longest_query});
  token_N = to_device(token, what.device);
}

/// Whether a batch of the segments is the better way: there are several, of lengths that do not differ too much.
inline bool takes_padded_attention(const std::vector<Segment>& segments, const AttentionForm& form) {
  if (segments.size() < 2 || equal_and_plain(segments) || form.alibi || form.relative) return false;
  std::int64_t scores = 0, longest_query = 0, longest_key = 0;
  for (const Segment& segment : segments) {
    const std::int64_t num_keys = segment.prefix_length + segment.length;
    if (segment.length == 0) return false;
    scores += segment.length * num_keys;
    longest_query = std::max(longest_query, segment.length);
    longest_key = std::max(longest_key, num_keys);
  }
  return std::ssize(segments) * longest_query * longest_key <= 4 * scores;
}

/// attention() without `keys`, of segments that takes_padded_attention.
inline Tensor padded_attention(const Tensor& q_NHd, const Tensor& k_NKd, const Tensor& v_NKd,
                               const std::vector<Segment>& segments, const AttentionForm& form,
                               const KeysValues& prefix) {
  const bool own = !prefix.k_NKd.defined();
  const auto layout = row_layout<PaddedLayout>(
      {.segments = segments, .num_rows = k_NKd.size(0), .own_prefix = own, .device = q_NHd.device()});
  const auto batch = [&](const Tensor& x, const Tensor& index, std::int64_t length) {
    return heads_first(x.index_select(0, index).unflatten(0, {-1, length}));
  };
  const auto keys = [&](const Tensor& row, const Tensor& before) {
    return batch(own ? row : at::cat({row, before}), layout->key, layout->longest_key);
  };
  const Tensor q = batch(q_NHd, layout->query, layout->longest_query), k = keys(k_NKd, prefix.k_NKd),
               v = keys(v_NKd, prefix.v_NKd), mask = layout->mask(form.window);
  const Tensor out =
      needs_scores(form) ? attend_by_scores(q, k, v, form, {}, mask) : attend_by_head(q, k, v, form, mask);
  return heads_first(out).flatten(0, 1).index_select(0, layout->token_N);
}

}  // namespace kto::detail
