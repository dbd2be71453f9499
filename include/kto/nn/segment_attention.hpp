// SPDX-License-Identifier: Apache-2.0
// Attention of the segments of a row to ranges of keys: in both directions, to the states of an encoder, or with
// biases. Composed of LibTorch's operators, for any device and type.
#pragma once

#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "kto/collate/batch.hpp"
#include "kto/nn/matmul.hpp"

namespace kto {

// Shapes: N tokens of all segments, M keys, H heads, d head dimension; L tokens of a segment.

/// How segments attend.
struct SegmentAttention {
  double scale = 1;
  bool is_causal = false;  ///< the last query sees all keys, each one before it a key less
  /// The biases [H, L, keys] of so many queries and keys; none where empty.
  std::function<Tensor(std::int64_t, std::int64_t)> bias = {};
};

namespace detail {

/// q [H, L, d], k and v [H, M, d] to [H, L, d]; `bias` [H, L, M] may be undefined. LibTorch's attention has no gradient
/// of biases, so that with them the scores are held; the softmax is in float32 or wider.
inline Tensor attend_with_bias(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& bias,
                               const SegmentAttention& form) {
  if (needs_widening(q))
    return attend_with_bias(q.to(at::kFloat), k.to(at::kFloat), v.to(at::kFloat), bias, form).to(q.scalar_type());
  const std::int64_t length = q.size(-2), behind = k.size(-2) - length;
  const auto sees = [&] {
    return at::ones({length, k.size(-2)}, q.options().dtype(at::kBool).requires_grad(false)).tril(behind);
  };
  if (!bias.defined()) {
    const bool masked = form.is_causal && behind > 0;
    return at::scaled_dot_product_attention(q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0),
                                            masked ? std::optional(sees()) : std::nullopt, /*dropout_p=*/0.0,
                                            form.is_causal && !masked, form.scale)
        .squeeze(0);
  }
  const Tensor product = at::matmul(q, k.transpose(-2, -1));
  Tensor scores = (form.scale == 1 ? product : product * form.scale) + bias;
  if (form.is_causal && length > 1)
    scores = scores.masked_fill(sees().logical_not(), -std::numeric_limits<double>::infinity());
  return at::matmul(scores.softmax(-1, wide_type(q.scalar_type())).to(q.scalar_type()), v);
}

}  // namespace detail

/// softmax(scale q k^T + bias) v: the tokens of segment s see the keys `ranges[s]`. q_NHd, k_MHd and v_MHd of one type;
/// returns [N, H, d]. Throws Error for a range without keys.
inline Tensor segment_attention(const Tensor& q_NHd, const Tensor& k_MHd, const Tensor& v_MHd,
                                const std::vector<Segment>& segments, const std::vector<KeyRange>& ranges,
                                const SegmentAttention& form) {
  check(ranges.size() == segments.size(), "attention of ", segments.size(), " segments to ", ranges.size(),
        " ranges of keys");
  if (segments.empty()) return q_NHd;
  std::vector<std::int64_t> lengths;
  for (const Segment& segment : segments) lengths.push_back(segment.length);
  const auto q = q_NHd.split_with_sizes(lengths);
  std::map<std::pair<std::int64_t, std::int64_t>, Tensor> biases;
  std::vector<Tensor> out;
  for (std::size_t s = 0; s < segments.size(); ++s) {
    const auto& [begin, count] = ranges[s];
    check(count > 0, "a segment of ", lengths[s], " tokens has no keys to attend to");
    Tensor bias;
    if (form.bias) {
      Tensor& known = biases[{lengths[s], count}];
      if (!known.defined()) known = form.bias(lengths[s], count);
      bias = known;
    }
    const auto by_head = [](const Tensor& x) { return x.transpose(0, 1); };
    out.push_back(by_head(detail::attend_with_bias(by_head(q[s]), by_head(k_MHd.narrow(0, begin, count)),
                                                   by_head(v_MHd.narrow(0, begin, count)), bias, form)));
  }
  return at::cat(out);
}

}  // namespace kto
