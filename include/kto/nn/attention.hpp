// SPDX-License-Identifier: Apache-2.0
// Causal attention within the segments of a row: the kernels of cpu/ and cuda/ where they serve, else LibTorch's
// scaled_dot_product_attention, for any device and type and twice differentiable, which is also the kernels' oracle.
#pragma once

#include <limits>
#include <optional>
#include <vector>

#include "kto/nn/alibi.hpp"
#include "kto/nn/cpu/blocked_attention.hpp"
#include "kto/nn/cuda/packed_attention.hpp"
#include "kto/nn/matmul.hpp"

namespace kto {

// Shapes: N tokens of all segments, H heads, K key/value heads (H is a multiple), d head dimension, that of values may be
// another; S segments of equal length L; P prefix tokens.

namespace detail {

/// [L, P + L] of bool, true where query i (at position P + i) sees key j: 0 <= P + i - j < window.
inline Tensor attention_mask(std::int64_t length, std::int64_t prefix_length, std::optional<std::int64_t> window,
                             const at::TensorOptions& options) {
  Tensor mask = at::ones({length, prefix_length + length}, options.dtype(at::kBool)).tril_(prefix_length);
  return window ? mask.triu_(prefix_length - *window + 1) : mask;
}

/// q [.., H, L, d], k and v [.., K, P + L, d] to [.., H, L, d], with capped scores or with sinks. The softmax is in
/// float32 or wider.
inline Tensor attend_by_scores(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionForm& form) {
  const std::int64_t length = q.size(-2), prefix_length = k.size(-2) - length, shared = q.size(-3) / k.size(-3);
  const auto for_heads = [&](const Tensor& x) { return shared == 1 ? x : x.repeat_interleave(shared, -3); };
  Tensor scores = at::matmul(q, for_heads(k).transpose(-2, -1)) * form.scale;
  if (form.soft_cap > 0) scores = form.soft_cap * at::tanh(scores / form.soft_cap);
  const Tensor mask = attention_mask(length, prefix_length, form.window, q.options().requires_grad(false));
  scores = scores.masked_fill(mask.logical_not(), -std::numeric_limits<double>::infinity());
  if (form.sinks_H.defined()) {
    std::vector<std::int64_t> column = scores.sizes().vec();
    column.back() = 1;
    scores = at::cat({scores, form.sinks_H.to(scores.scalar_type()).view({-1, 1, 1}).expand(column)}, -1);
  }
  const Tensor weights = scores.softmax(-1, wide_type(q.scalar_type())).narrow(-1, 0, prefix_length + length);
  return at::matmul(weights.to(q.scalar_type()), for_heads(v));
}

/// The attention_mask, or what to add to the scores [H, L, P + L] in its place where they have biases.
inline Tensor score_mask(const AttentionForm& form, std::int64_t num_heads, std::int64_t length,
                         std::int64_t prefix_length, const at::TensorOptions& options) {
  const Tensor sees = attention_mask(length, prefix_length, form.window, options.requires_grad(false));
  if (!form.alibi) return sees;
  return alibi_biases(*form.alibi, num_heads, length, prefix_length, options.requires_grad(false))
      .masked_fill_(sees.logical_not(), -std::numeric_limits<double>::infinity());
}

/// q [.., L, H, d], k and v [.., P + L, K, d] to [.., L, H, d].
inline Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionForm& form) {
  if (needs_widening(q)) return attend(q.to(at::kFloat), k.to(at::kFloat), v.to(at::kFloat), form).to(q.scalar_type());
  const auto by_head = [](const Tensor& x) { return x.transpose(-3, -2); };
  if (form.soft_cap > 0 || form.sinks_H.defined())
    return by_head(attend_by_scores(by_head(q), by_head(k), by_head(v), form));
  const std::int64_t length = q.size(-3), prefix_length = k.size(-3) - length;
  const bool masked = form.alibi || prefix_length > 0 || (form.window && *form.window < length);
  const auto mask =
      masked ? std::optional(score_mask(form, q.size(-2), length, prefix_length, q.options())) : std::nullopt;
  return by_head(at::scaled_dot_product_attention(by_head(q), by_head(k), by_head(v), mask, /*dropout_p=*/0.0,
                                                  /*is_causal=*/!masked, form.scale,
                                                  /*enable_gqa=*/q.size(-2) != k.size(-2)));
}

inline bool equal_and_plain(const std::vector<Segment>& segments) {
  for (const Segment& segment : segments)
    if (segment.length != segments.front().length || segment.prefix_length > 0) return false;
  return true;
}

}  // namespace detail

/// causal_attention from LibTorch's operators.
inline Tensor causal_attention_composed(const Tensor& q_NHd, const Tensor& k_NKd, const Tensor& v_NKd,
                                        const std::vector<Segment>& segments, const AttentionForm& form,
                                        const KeysValues& prefix = {}) {
  if (segments.empty()) return q_NHd.narrow(-1, 0, 1).expand({-1, -1, v_NKd.size(-1)});  // of no tokens
  if (detail::equal_and_plain(segments)) {
    const auto stacked = [&](const Tensor& x) {
      return x.unflatten(0, {static_cast<std::int64_t>(segments.size()), -1});
    };
    return detail::attend(stacked(q_NHd), stacked(k_NKd), stacked(v_NKd), form).flatten(0, 1);
  }
  std::vector<std::int64_t> lengths;
  lengths.reserve(segments.size());
  for (const Segment& segment : segments) lengths.push_back(segment.length);
  // Split, not sliced: the gradient of all parts is then one concatenation.
  const auto parts = [&](const Tensor& x) { return x.split_with_sizes(lengths); };
  const auto q = parts(q_NHd), k = parts(k_NKd), v = parts(v_NKd);
  std::vector<Tensor> out;
  for (std::size_t s = 0; s < segments.size(); ++s) {
    const Segment& segment = segments[s];
    const auto with_prefix = [&](const Tensor& row, const Tensor& part) {
      const Tensor batched = segment.prefix_length == 0
                                 ? part
                                 : at::cat({row.narrow(0, segment.prefix_begin, segment.prefix_length), part});
      return batched.unsqueeze(0);
    };
    const bool own = !prefix.k_NKd.defined();
    const Tensor keys = with_prefix(own ? k_NKd : prefix.k_NKd, k[s]),
                 values = with_prefix(own ? v_NKd : prefix.v_NKd, v[s]);
    out.push_back(detail::attend(q[s].unsqueeze(0), keys, values, form).squeeze(0));
  }
  return at::cat(out);
}

/// softmax(scale q k^T) v with each token attending as its Segment says; with a window, to itself and the window - 1
/// tokens before it, counted through the prefix. q_NHd, k_NKd, v_NKd of one type; returns [N, H, d], d that of
/// the values. `prefix` holds the
/// keys and values that prefixes are of: those of the row itself when it is empty.
inline Tensor causal_attention(const Tensor& q_NHd, const Tensor& k_NKd, const Tensor& v_NKd,
                               const std::vector<Segment>& segments, const AttentionForm& form,
                               const KeysValues& prefix = {}) {
  if (detail::is_next_token(q_NHd, segments, prefix))
    return detail::attend_next_token(q_NHd, k_NKd, v_NKd, prefix, segments[0], form);
  if (detail::takes_blocked_attention(q_NHd, k_NKd, v_NKd))
    return detail::blocked_attention(q_NHd, k_NKd, v_NKd, prefix, segments, form);
  const bool is_plain =
      form.soft_cap == 0 && !form.alibi && !form.sinks_H.defined() && v_NKd.size(-1) == q_NHd.size(-1);
  if (is_plain)
    if (auto out = detail::packed_attention(q_NHd, k_NKd, v_NKd, prefix, segments, form.window, form.scale))
      return *out;
  return causal_attention_composed(q_NHd, k_NKd, v_NKd, segments, form, prefix);
}

}  // namespace kto
