// SPDX-License-Identifier: Apache-2.0
// The blocks of blocked_attention.hpp with products of float32, on any processor. Narrower numbers are widened block by
// block, and results rounded.
#pragma once

#include <algorithm>
#include <cmath>

#include "kto/nn/cpu/attention_blocks.hpp"

namespace kto::detail {

// Shapes as in attention_blocks.hpp.

/// Queries [first, first + count) of a segment and one head: their outputs, and the logsumexp of their scores.
template <class Products, class Number>
void attention_forward_block(const AttentionInput<Number>& in, const KeyedSegment& segment, std::int64_t head,
                             std::int64_t first, std::int64_t count, Number* out, float* log_sum, float* scratch) {
  constexpr std::int64_t B = attention_block;
  const std::int64_t d = in.width, v = in.value_width;
  float *q_di = scratch, *score_ji = q_di + d * B, *sum_iv = score_ji + B * B, *max_i = sum_iv + B * v,
        *total_i = max_i + B, *shrink_i = total_i + B, *wide = shrink_i + B;
  transpose_block(float_rows(in.queries(in.q, segment.begin + first, head), count, d, wide), count, d, q_di);
  for (std::int64_t n = 0; n < d * B; ++n) q_di[n] *= in.scale;
  std::fill(sum_iv, sum_iv + B * v, 0.0F);
  const auto [most, total] = in.start(head);
  std::fill(max_i, max_i + B, most);
  std::fill(total_i, total_i + B, total);
  visit_keys(in, segment, first, count, [&](const KeyBlock& block) {
    const auto keys =
        float_rows(in.keys(block.in_prefix ? in.prefix_k : in.k, block.token, head), block.count, d, wide);
    Products::product({block.count, B, d, keys.data, keys.stride, 1, {q_di, B}, {score_ji, B}, false});
    finish_scores(in, block, head, segment.prefix_length + first, 1, score_ji);
    mask_block(in, block, score_ji, -1e30F);
    std::copy(max_i, max_i + B, shrink_i);
    for (std::int64_t j = 0; j < block.count; ++j)
      for (std::int64_t i = 0; i < B; ++i) {
        const float s = score_ji[j * B + i];
        max_i[i] = s > max_i[i] ? s : max_i[i];
      }
    for (std::int64_t i = 0; i < B; ++i) {
      shrink_i[i] = vector_exp(shrink_i[i] - max_i[i]);
      total_i[i] *= shrink_i[i];
    }
    for (std::int64_t j = 0; j < block.count; ++j)
      for (std::int64_t i = 0; i < B; ++i) score_ji[j * B + i] = vector_exp(score_ji[j * B + i] - max_i[i]);
    mask_block(in, block, score_ji, 0.0F);
    for (std::int64_t j = 0; j < block.count; ++j)
      for (std::int64_t i = 0; i < B; ++i) total_i[i] += score_ji[j * B + i];
    for (std::int64_t i = 0; i < count; ++i)
      for (std::int64_t c = 0; c < v; ++c) sum_iv[i * v + c] *= shrink_i[i];
    const auto values =
        float_rows(in.values(block.in_prefix ? in.prefix_v : in.v, block.token, head), block.count, v, wide);
    Products::product({count, v, block.count, score_ji, 1, B, values, {sum_iv, v}, true});
  });
  for (std::int64_t i = 0; i < count; ++i) {
    Number* to = out + ((segment.begin + first + i) * in.heads + head) * v;
    const float share = 1 / total_i[i];
    for (std::int64_t c = 0; c < v; ++c) store(to[c], sum_iv[i * v + c] * share);
    log_sum[(segment.begin + first + i) * in.heads + head] = max_i[i] + std::log(total_i[i]);
  }
}
inline std::int64_t forward_scratch(std::int64_t d, std::int64_t v) {
  return attention_block * (d + v + attention_block + 3 + std::max(d, v));
}

/// The same block's part in the gradients: that of its queries, and what they add to those of keys and values.
template <class Products, class Number>
void attention_backward_block(const AttentionInput<Number>& in, const KeyedSegment& segment, std::int64_t head,
                              std::int64_t first, std::int64_t count, const Number* out, const Number* grad_out,
                              const float* log_sum, Number* grad_q, float* grad_k, float* grad_v, float* grad_buckets,
                              float* scratch) {
  constexpr std::int64_t B = attention_block;
  const std::int64_t d = in.width, v = in.value_width, token = segment.begin + first;
  float *q_di = scratch, *grad_vi = q_di + d * B, *p_ji = grad_vi + v * B, *ds_ji = p_ji + B * B,
        *slope_ji = ds_ji + B * B, *dq_id = slope_ji + B * B, *log_sum_i = dq_id + B * d, *delta_i = log_sum_i + B,
        *wide_q = delta_i + B, *wide_grad = wide_q + B * d, *wide_k = wide_grad + B * v, *wide_v = wide_k + B * d;
  const auto q_rows = float_rows(in.queries(in.q, token, head), count, d, wide_q),
             grad_rows = float_rows(in.outputs(grad_out, token, head), count, v, wide_grad);
  const auto out_rows = in.outputs(out, token, head);
  transpose_block(q_rows, count, d, q_di);
  transpose_block(grad_rows, count, v, grad_vi);
  std::fill(log_sum_i, log_sum_i + B, 0.0F);
  std::fill(delta_i, delta_i + B, 0.0F);
  for (std::int64_t i = 0; i < count; ++i) {
    log_sum_i[i] = log_sum[(token + i) * in.heads + head];
    delta_i[i] = vector_sum(v, [&](std::int64_t c) { return grad_rows.row(i)[c] * load(out_rows.row(i)[c]); });
  }
  std::fill(dq_id, dq_id + B * d, 0.0F);
  visit_keys(in, segment, first, count, [&](const KeyBlock& block) {
    const auto keys =
        float_rows(in.keys(block.in_prefix ? in.prefix_k : in.k, block.token, head), block.count, d, wide_k);
    const auto values =
        float_rows(in.values(block.in_prefix ? in.prefix_v : in.v, block.token, head), block.count, v, wide_v);
    Products::product({block.count, B, d, keys.data, keys.stride, 1, {q_di, B}, {p_ji, B}, false});
    Products::product({block.count, B, v, values.data, values.stride, 1, {grad_vi, B}, {ds_ji, B}, false});
    const float scale = finish_scores(in, block, head, segment.prefix_length + first, in.scale, p_ji, slope_ji);
    for (std::int64_t j = 0; j < block.count; ++j)
      for (std::int64_t i = 0; i < B; ++i) p_ji[j * B + i] = vector_exp(p_ji[j * B + i] * scale - log_sum_i[i]);
    mask_block(in, block, p_ji, 0.0F);
    for (std::int64_t j = 0; j < block.count; ++j)
      for (std::int64_t i = 0; i < B; ++i)
        ds_ji[j * B + i] = p_ji[j * B + i] * (ds_ji[j * B + i] - delta_i[i]) * in.scale;
    add_to_buckets(in, block, ds_ji, grad_buckets);
    if (in.soft_cap > 0)
      for (std::int64_t n = 0; n < block.count * B; ++n) ds_ji[n] *= slope_ji[n];
    Products::product({count, d, block.count, ds_ji, 1, B, keys, {dq_id, d}, true});
    if (block.in_prefix && in.prefix_k != in.k) return;  // of another row, without gradient
    const std::int64_t to_row = block.token + (block.in_prefix ? segment.to_prefix_grad : 0),
                       place = to_row * in.kv_heads + head / (in.heads / in.kv_heads);
    Products::product({block.count, d, count, ds_ji, B, 1, q_rows, {grad_k + place * d, in.kv_heads * d}, true});
    Products::product({block.count, v, count, p_ji, B, 1, grad_rows, {grad_v + place * v, in.kv_heads * v}, true});
  });
  for (std::int64_t i = 0; i < count; ++i)
    for (std::int64_t c = 0; c < d; ++c) store(grad_q[((token + i) * in.heads + head) * d + c], dq_id[i * d + c]);
}
inline std::int64_t backward_scratch(std::int64_t d, std::int64_t v) {
  return attention_block * (4 * d + 3 * v + 3 * attention_block + 2);
}

}  // namespace kto::detail
