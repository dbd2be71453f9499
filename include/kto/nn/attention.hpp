// SPDX-License-Identifier: Apache-2.0
// Attention of the segments of a row, causal within each or to all keys of a range. The first arm that takes a call
// computes it: the kernels of cpu/, those of cuda/, on other devices all segments as one padded batch, and for all that
// is left LibTorch's operators, segment by segment, which are also the oracle of the others.
#pragma once

#include <optional>
#include <vector>

#include "kto/nn/composed_attention.hpp"
#include "kto/nn/cpu/blocked_attention.hpp"
#include "kto/nn/cuda/packed_attention.hpp"
#include "kto/nn/padded_attention.hpp"

namespace kto {

// Shapes: N tokens of all segments, M rows of keys, H heads, K key/value heads (H is a multiple), d head dimension,
// that of values may be another.

namespace detail {

inline void check_ranges(const std::vector<Segment>& segments, const std::vector<KeyRange>& keys,
                         const AttentionForm& form) {
  check(keys.size() == segments.size(), "attention of ", segments.size(), " segments to ", keys.size(),
        " ranges of keys");
  for (std::size_t s = 0; s < keys.size(); ++s)
    check(keys[s].length > 0, "a segment of ", segments[s].length, " tokens has no keys to attend to");
  check(!form.window && !form.alibi, "attention to all keys has no window and no ALiBi biases");
}

/// What attention() is given.
struct AttentionCall {
  const Tensor &q_NHd, &k_MKd, &v_MKd;
  const std::vector<Segment>& segments;
  const AttentionForm& form;
  const KeysValues& prefix;
  const std::vector<KeyRange>& keys;
};

// The arms: the result, or nothing where an arm does not take the call.

inline std::optional<Tensor> attention_on_cpu(const AttentionCall& call) {
  const auto& [q_NHd, k_MKd, v_MKd, segments, form, prefix, keys] = call;
  if (is_next_token(q_NHd, segments, prefix, keys))
    return attend_next_token(q_NHd, k_MKd, v_MKd, prefix, segments[0], keys, form);
  if (takes_blocked_attention(q_NHd, k_MKd, v_MKd))
    return blocked_attention(q_NHd, k_MKd, v_MKd, prefix, segments, keys, form);
  return std::nullopt;
}

inline std::optional<Tensor> attention_on_cuda(const AttentionCall& call) {
  const auto& [q_NHd, k_MKd, v_MKd, segments, form, prefix, keys] = call;
  return packed_attention(q_NHd, k_MKd, v_MKd, prefix, segments, keys, form);
}

inline std::optional<Tensor> attention_padded(const AttentionCall& call) {
  if (call.q_NHd.is_cpu() || !call.keys.empty() || !takes_padded_attention(call.segments, call.form))
    return std::nullopt;
  return padded_attention(call.q_NHd, call.k_MKd, call.v_MKd, call.segments, call.form, call.prefix);
}

}  // namespace detail

/// softmax(scale q k^T + biases) v with each token attending as its Segment says; with a window, to itself and the
/// window - 1 tokens before it, counted through the prefix. q_NHd, k_MKd, v_MKd of one type; returns [N, H, d], d that
/// of the values. `prefix` holds the keys and values that prefixes are of: those of the row itself when it is empty.
/// With `keys`, the tokens of segment s see all of keys[s] and nothing else: attention in both directions, or to an
/// encoder's states. Throws Error for a range without keys, and for a window in it.
inline Tensor attention(const Tensor& q_NHd, const Tensor& k_MKd, const Tensor& v_MKd,
                        const std::vector<Segment>& segments, const AttentionForm& form, const KeysValues& prefix = {},
                        const std::vector<KeyRange>& keys = {}) {
  if (!keys.empty()) detail::check_ranges(segments, keys, form);
  const detail::AttentionCall call{q_NHd, k_MKd, v_MKd, segments, form, prefix, keys};
  for (const auto arm : {detail::attention_on_cpu, detail::attention_on_cuda, detail::attention_padded})
    if (auto out = arm(call)) return *std::move(out);
  return attention_composed(q_NHd, k_MKd, v_MKd, segments, form, prefix, keys);
}

}  // namespace kto
