// SPDX-License-Identifier: Apache-2.0
// Attention of the segments of a row from LibTorch's operators, one segment after the other: for any device and type,
// twice differentiable, and the oracle of all kernels.
#pragma once

#include <limits>
#include <optional>
#include <vector>

#include "kto/collate/batch.hpp"
#include "kto/nn/alibi.hpp"
#include "kto/nn/attention_form.hpp"
#include "kto/nn/keys_values.hpp"
#include "kto/nn/matmul.hpp"
#include "kto/nn/relative_bias.hpp"

namespace kto {

// Shapes: N tokens of all segments, M rows of keys, H heads, K key/value heads (H is a multiple), d head dimension,
// that of values may be another; L queries of a segment, S keys, P prefix tokens.

namespace detail {

/// How one segment attends. Causal: its queries are the last of the keys' tokens, and see the keys up to themselves.
/// Else all of them see all keys.
struct SegmentForm {
  const AttentionForm& form;
  bool is_causal;
  std::int64_t length, num_keys;

  std::int64_t first() const { return is_causal ? num_keys - length : 0; }  ///< position of the first query

  /// Whether LibTorch's own causal attention, or that without mask, is all there is to it.
  bool is_unmasked() const {
    return !form.alibi && !form.relative && (!is_causal || (first() == 0 && !(form.window && *form.window < length)));
  }
  /// [L, S] of bool, true where query i sees key j: 0 <= first + i - j < window.
  Tensor mask(const at::TensorOptions& options) const {
    Tensor out = at::ones({length, num_keys}, options.dtype(at::kBool).requires_grad(false));
    if (is_causal) out = out.tril_(first());
    return form.window ? out.triu_(first() - *form.window + 1) : out;
  }
  /// [H, L, S]: what the scores get; undefined where nothing. In the options' type, that of relative biases in theirs.
  Tensor biases(std::int64_t num_heads, const at::TensorOptions& options) const {
    Tensor out;
    if (form.alibi) out = alibi_biases(*form.alibi, num_heads, length, first(), options.requires_grad(false));
    if (!form.relative) return out;
    const Tensor relative = relative_bias(*form.relative, form.bias_BH, length, num_keys, first());
    return out.defined() ? out + relative : relative;
  }
};

constexpr double never_seen = -std::numeric_limits<double>::infinity();

/// q [.., H, L, d], k and v [.., K, S, d] to [.., H, L, d], with the scores held. They get `biases` [H, L, S], and count
/// where `mask` [.., L, S] is true; both may be undefined. The softmax is in float32 or wider.
inline Tensor attend_by_scores(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionForm& form,
                               const Tensor& biases, const Tensor& mask) {
  const std::int64_t shared = q.size(-3) / k.size(-3);
  const auto for_heads = [&](const Tensor& x) { return shared == 1 ? x : x.repeat_interleave(shared, -3); };
  Tensor scores = at::matmul(q, for_heads(k).transpose(-2, -1));
  if (form.scale != 1) scores = scores * form.scale;
  if (form.soft_cap > 0) scores = form.soft_cap * at::tanh(scores / form.soft_cap);
  if (biases.defined()) scores = scores + biases;
  if (mask.defined()) scores = scores.masked_fill(mask.logical_not(), never_seen);
  if (form.sinks_H.defined()) {
    std::vector<std::int64_t> column = scores.sizes().vec();
    column.back() = 1;
    scores = at::cat({scores, form.sinks_H.to(scores.scalar_type()).view({-1, 1, 1}).expand(column)}, -1);
  }
  const Tensor weights = scores.softmax(-1, wide_type(q.scalar_type())).narrow(-1, 0, k.size(-2));
  return at::matmul(weights.to(q.scalar_type()), for_heads(v));
}

/// The same by LibTorch's attention where it has what the form asks for; it has no gradient of relative biases. Without
/// `mask` all queries see all keys, or if `is_causal` those up to their own.
inline Tensor attend_by_head(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionForm& form,
                             std::optional<Tensor> mask, bool is_causal = false) {
  return at::scaled_dot_product_attention(q, k, v, mask, /*dropout_p=*/0.0, is_causal && !mask, form.scale,
                                          /*enable_gqa=*/q.size(-3) != k.size(-3));
}

inline bool needs_scores(const AttentionForm& form) {
  return form.soft_cap > 0 || form.sinks_H.defined() || form.relative;
}
inline Tensor heads_first(const Tensor& x) { return x.transpose(-3, -2); }

/// q [.., L, H, d], k and v [.., S, K, d] to [.., L, H, d].
inline Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionForm& form,
                     bool is_causal = true) {
  if (needs_widening(q))
    return attend(q.to(at::kFloat), k.to(at::kFloat), v.to(at::kFloat), form, is_causal).to(q.scalar_type());
  const SegmentForm segment{form, is_causal, q.size(-3), k.size(-3)};
  if (needs_scores(form))
    return heads_first(attend_by_scores(heads_first(q), heads_first(k), heads_first(v), form,
                                        segment.biases(q.size(-2), q.options()),
                                        is_causal ? segment.mask(q.options()) : Tensor()));
  std::optional<Tensor> mask;
  if (!segment.is_unmasked()) mask = segment.mask(q.options());
  if (form.alibi) mask = segment.biases(q.size(-2), q.options()).masked_fill_(mask->logical_not(), never_seen);
  return heads_first(attend_by_head(heads_first(q), heads_first(k), heads_first(v), form, mask, is_causal));
}

inline bool equal_and_plain(const std::vector<Segment>& segments) {
  for (const Segment& segment : segments)
    if (segment.length != segments.front().length || segment.prefix_length > 0) return false;
  return true;
}

}  // namespace detail

/// attention() from LibTorch's operators.
inline Tensor attention_composed(const Tensor& q_NHd, const Tensor& k_MKd, const Tensor& v_MKd,
                                 const std::vector<Segment>& segments, const AttentionForm& form,
                                 const KeysValues& prefix = {}, const std::vector<KeyRange>& keys = {}) {
  if (segments.empty()) return q_NHd.narrow(-1, 0, 1).expand({-1, -1, v_MKd.size(-1)});  // of no tokens
  if (keys.empty() && detail::equal_and_plain(segments)) {
    const auto stacked = [&](const Tensor& x) {
      return x.unflatten(0, {static_cast<std::int64_t>(segments.size()), -1});
    };
    return detail::attend(stacked(q_NHd), stacked(k_MKd), stacked(v_MKd), form).flatten(0, 1);
  }
  std::vector<std::int64_t> lengths;
  lengths.reserve(segments.size());
  for (const Segment& segment : segments) lengths.push_back(segment.length);
  // Split, not sliced: the gradient of all parts is then one concatenation.
  const auto parts = [&](const Tensor& x) { return x.split_with_sizes(lengths); };
  const auto q = parts(q_NHd);
  std::vector<Tensor> out;
  if (!keys.empty()) {
    for (std::size_t s = 0; s < segments.size(); ++s) {
      const auto seen = [&](const Tensor& x) { return x.narrow(0, keys[s].begin, keys[s].length).unsqueeze(0); };
      out.push_back(detail::attend(q[s].unsqueeze(0), seen(k_MKd), seen(v_MKd), form, false).squeeze(0));
    }
    return at::cat(out);
  }
  const auto k = parts(k_MKd), v = parts(v_MKd);
  for (std::size_t s = 0; s < segments.size(); ++s) {
    const Segment& segment = segments[s];
    const auto with_prefix = [&](const Tensor& row, const Tensor& part) {
      const Tensor batched = segment.prefix_length == 0
                                 ? part
                                 : at::cat({row.narrow(0, segment.prefix_begin, segment.prefix_length), part});
      return batched.unsqueeze(0);
    };
    const bool own = !prefix.k_NKd.defined();
    out.push_back(detail::attend(q[s].unsqueeze(0), with_prefix(own ? k_MKd : prefix.k_NKd, k[s]),
                                 with_prefix(own ? v_MKd : prefix.v_NKd, v[s]), form)
                      .squeeze(0));
  }
  return at::cat(out);
}

}  // namespace kto
