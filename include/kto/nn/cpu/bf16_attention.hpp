// SPDX-License-Identifier: Apache-2.0
// The blocks of blocked_attention.hpp for bfloat16 on processors with products of bfloat16: these with float32 sums,
// the rest in float32. Probabilities and their gradients are rounded to bfloat16 where they enter a product.
#pragma once

#include <cmath>
#include <utility>
#include <vector>

#include "kto/core/bf16_product.hpp"
#include "kto/nn/cpu/attention_blocks.hpp"

namespace kto::detail {

// Shapes as in attention_blocks.hpp; pairs as in bf16_product.hpp.

/// [count, width] to [64, width], the missing rows 0.
inline void copy_rows(Rows<const at::BFloat16> rows, std::int64_t count, std::int64_t width, at::BFloat16* out) {
  for (std::int64_t i = 0; i < count; ++i) std::copy(rows.row(i), rows.row(i) + width, out + i * width);
  std::fill(out + count * width, out + attention_block * width, at::BFloat16(0.0F));
}
/// [64, width] to [width, 64].
inline void turn_rows(const at::BFloat16* rows, std::int64_t width, at::BFloat16* out) {
  for (std::int64_t c = 0; c < width; ++c)
    for (std::int64_t i = 0; i < attention_block; ++i) out[c * attention_block + i] = rows[i * width + c];
}
/// [64, width] to its pairs, [32, width].
inline void pair_rows(const at::BFloat16* rows, std::int64_t width, std::uint32_t* out) {
  for (std::int64_t i = 0; i < attention_block / 2; ++i)
    for (std::int64_t c = 0; c < width; ++c)
      out[i * width + c] = pair_of(rows[2 * i * width + c], rows[(2 * i + 1) * width + c]);
}

/// Keys and values of all segments in blocks of 64, each as products want them.
struct PackedKeys {
  std::vector<std::int64_t> first_block;  ///< of each segment: the blocks of its prefix, then its own
  Tensor k, v, turned_k, turned_v;  ///< [blocks, K, 64 d]; rows [64, d], turned [d, 64]; undefined where not asked for

  const at::BFloat16* place(const Tensor& packed, std::size_t segment_number, const KeyedSegment& segment,
                            const KeyBlock& block, std::int64_t kv_head) const {
    const std::int64_t prefix_blocks = (segment.prefix_length + attention_block - 1) / attention_block;
    const std::int64_t number = first_block[segment_number] +
                                (block.in_prefix ? (block.token - segment.prefix_begin) / attention_block
                                                 : prefix_blocks + (block.token - segment.own.begin) / attention_block);
    return packed.const_data_ptr<at::BFloat16>() + (number * packed.size(1) + kv_head) * packed.size(2);
  }
};

/// `backward` says for which pass.
inline PackedKeys pack_keys(const AttentionInput<at::BFloat16>& in, const std::vector<KeyedSegment>& segments,
                            const at::TensorOptions& options, bool backward) {
  struct Task {
    bool in_prefix;
    std::int64_t token, count;
  };
  PackedKeys out;
  std::vector<Task> tasks;
  for (const KeyedSegment& segment : segments) {
    out.first_block.push_back(static_cast<std::int64_t>(tasks.size()));
    for (const bool in_prefix : {true, false}) {
      const std::int64_t token = in_prefix ? segment.prefix_begin : segment.own.begin,
                         size = in_prefix ? segment.prefix_length : segment.own.length;
      for (std::int64_t begin = 0; begin < size; begin += attention_block)
        tasks.push_back({in_prefix, token + begin, std::min(attention_block, size - begin)});
    }
  }
  const std::int64_t block_size = attention_block * in.width;
  const auto make = [&](bool wanted) {
    return wanted ? at::empty({static_cast<std::int64_t>(tasks.size()), in.kv_heads, block_size}, options) : Tensor();
  };
  out.k = make(true);
  out.v = make(backward);
  out.turned_k = make(backward);
  out.turned_v = make(!backward);
  const auto data = [](const Tensor& tensor) {
    return tensor.defined() ? tensor.mutable_data_ptr<at::BFloat16>() : nullptr;
  };
  auto *k_out = data(out.k), *v_out = data(out.v), *turned_k = data(out.turned_k), *turned_v = data(out.turned_v);
  const std::int64_t per_key_head = in.heads / in.kv_heads;
  parallel_ranges(static_cast<std::int64_t>(tasks.size()) * in.kv_heads, 1, [&](std::int64_t n, std::int64_t end) {
    std::vector<at::BFloat16> rows(static_cast<std::size_t>(block_size));
    for (; n < end; ++n) {
      const Task& task = tasks[static_cast<std::size_t>(n / in.kv_heads)];
      const std::int64_t head = n % in.kv_heads * per_key_head, place = n * block_size;
      const auto k = in.keys(task.in_prefix ? in.prefix_k : in.k, task.token, head);
      const auto v = in.keys(task.in_prefix ? in.prefix_v : in.v, task.token, head);
      copy_rows(k, task.count, in.width, k_out + place);
      if (turned_k != nullptr) turn_rows(k_out + place, in.width, turned_k + place);
      copy_rows(v, task.count, in.width, v_out != nullptr ? v_out + place : rows.data());
      if (turned_v != nullptr) turn_rows(rows.data(), in.width, turned_v + place);
    }
  });
  return out;
}

/// Queries [first, first + count) of a segment and one head: their outputs, and the logsumexp of their scores.
inline void bf16_forward_block(const AttentionInput<at::BFloat16>& in, const PackedKeys& keys,
                               std::size_t segment_number, const KeyedSegment& segment, std::int64_t head,
                               std::int64_t first, std::int64_t count, at::BFloat16* out, float* log_sum) {
  constexpr std::int64_t B = attention_block;
  const std::int64_t d = in.width, kv_head = head / (in.heads / in.kv_heads);
  Bf16Scratch scratch(B * (2 * d + 2 * B + B / 2 + 3));
  at::BFloat16* q_id = scratch.halves(B * d);
  std::uint32_t *q_di = scratch.pairs(B * d / 2), *p_ji = scratch.pairs(B / 2 * B);
  float *score_ji = scratch.floats(B * B), *sum_di = scratch.floats(d * B), *max_i = scratch.floats(B),
        *total_i = scratch.floats(B), *shrink_i = scratch.floats(B);
  copy_rows(in.queries(in.q, segment.begin + first, head), count, d, q_id);
  turn_pairs(q_id, B, d, q_di, B);
  std::fill(sum_di, sum_di + d * B, 0.0F);
  const auto [most, total] = in.start(head);
  std::fill(max_i, max_i + B, most);
  std::fill(total_i, total_i + B, total);
  visit_keys(in, segment, first, count, [&](const KeyBlock& block) {
    bf16_product(B, B, d, keys.place(keys.k, segment_number, segment, block, kv_head), d, q_di, B, score_ji, B, false);
    const float scale = finish_scores(in, block, head, segment.prefix_length + first, in.scale, score_ji);
    mask_block(in, block, score_ji, -1e30F);
    std::copy(max_i, max_i + B, shrink_i);
    for (std::int64_t j = 0; j < block.count; ++j)
      for (std::int64_t i = 0; i < B; ++i) {
        const float s = score_ji[j * B + i] * scale;
        max_i[i] = s > max_i[i] ? s : max_i[i];
      }
    for (std::int64_t i = 0; i < B; ++i) {
      shrink_i[i] = vector_exp(shrink_i[i] - max_i[i]);
      total_i[i] *= shrink_i[i];
    }
    for (std::int64_t j = 0; j < block.count; ++j)
      for (std::int64_t i = 0; i < B; ++i) score_ji[j * B + i] = vector_exp(score_ji[j * B + i] * scale - max_i[i]);
    mask_block(in, block, score_ji, 0.0F);
    std::fill(score_ji + block.count * B, score_ji + B * B, 0.0F);
    for (std::int64_t j = 0; j < block.count; ++j)
      for (std::int64_t i = 0; i < B; ++i) total_i[i] += score_ji[j * B + i];
    for (std::int64_t j = 0; j < B / 2; ++j)
      for (std::int64_t i = 0; i < B; ++i)
        p_ji[j * B + i] = pair_of(score_ji[2 * j * B + i], score_ji[(2 * j + 1) * B + i]);
    for (std::int64_t c = 0; c < d; ++c)
      for (std::int64_t i = 0; i < B; ++i) sum_di[c * B + i] *= shrink_i[i];
    bf16_product(d, B, B, keys.place(keys.turned_v, segment_number, segment, block, kv_head), B, p_ji, B, sum_di, B,
                 true);
  });
  for (std::int64_t i = 0; i < B; ++i) shrink_i[i] = 1 / total_i[i];
  for (std::int64_t i = 0; i < count; ++i) {
    at::BFloat16* to = out + ((segment.begin + first + i) * in.heads + head) * d;
    for (std::int64_t c = 0; c < d; ++c) store(to[c], sum_di[c * B + i] * shrink_i[i]);
    log_sum[(segment.begin + first + i) * in.heads + head] = max_i[i] + std::log(total_i[i]);
  }
}

/// The same block's part in the gradients: that of its queries, and what they add to those of keys and values.
inline void bf16_backward_block(const AttentionInput<at::BFloat16>& in, const PackedKeys& keys,
                                std::size_t segment_number, const KeyedSegment& segment, std::int64_t head,
                                std::int64_t first, std::int64_t count, const at::BFloat16* out,
                                const at::BFloat16* grad_out, const float* log_sum, at::BFloat16* grad_q, float* grad_k,
                                float* grad_v, float* grad_buckets) {
  constexpr std::int64_t B = attention_block;
  const std::int64_t d = in.width, kv_head = head / (in.heads / in.kv_heads), token = segment.begin + first;
  Bf16Scratch scratch(B * (4 * d + 3 * B + B / 2 + std::max(B, d) + 2));
  at::BFloat16 *q_id = scratch.halves(B * d), *grad_id = scratch.halves(B * d), *p_rows = scratch.halves(B * B),
               *ds_rows = scratch.halves(B * B);
  std::uint32_t *q_di = scratch.pairs(B * d / 2), *grad_di = scratch.pairs(B * d / 2),
                *q_pairs = scratch.pairs(B * d / 2), *grad_pairs = scratch.pairs(B * d / 2),
                *ds_pairs = scratch.pairs(B / 2 * B);
  float *p_ji = scratch.floats(B * B), *ds_ji = scratch.floats(B * std::max(B, d)), *slope_ji = scratch.floats(B * B),
        *dq_di = scratch.floats(d * B), *log_sum_i = scratch.floats(B), *delta_i = scratch.floats(B);
  copy_rows(in.queries(in.q, token, head), count, d, q_id);
  copy_rows(in.queries(grad_out, token, head), count, d, grad_id);
  turn_pairs(q_id, B, d, q_di, B);
  turn_pairs(grad_id, B, d, grad_di, B);
  pair_rows(q_id, d, q_pairs);
  pair_rows(grad_id, d, grad_pairs);
  const auto out_rows = in.queries(out, token, head);
  std::fill(log_sum_i, log_sum_i + B, 0.0F);
  std::fill(delta_i, delta_i + B, 0.0F);
  for (std::int64_t i = 0; i < count; ++i) {
    log_sum_i[i] = log_sum[(token + i) * in.heads + head];
    delta_i[i] = vector_sum(d, [&](std::int64_t c) { return load(grad_id[i * d + c]) * load(out_rows.row(i)[c]); });
  }
  std::fill(dq_di, dq_di + d * B, 0.0F);
  visit_keys(in, segment, first, count, [&](const KeyBlock& block) {
    const auto packed = [&](const Tensor& tensor) {
      return keys.place(tensor, segment_number, segment, block, kv_head);
    };
    bf16_product(B, B, d, packed(keys.k), d, q_di, B, p_ji, B, false);
    bf16_product(B, B, d, packed(keys.v), d, grad_di, B, ds_ji, B, false);
    const float scale = finish_scores(in, block, head, segment.prefix_length + first, in.scale, p_ji, slope_ji);
    for (std::int64_t j = 0; j < block.count; ++j)
      for (std::int64_t i = 0; i < B; ++i) p_ji[j * B + i] = vector_exp(p_ji[j * B + i] * scale - log_sum_i[i]);
    mask_block(in, block, p_ji, 0.0F);
    std::fill(p_ji + block.count * B, p_ji + B * B, 0.0F);
    for (std::int64_t j = 0; j < B; ++j)
      for (std::int64_t i = 0; i < B; ++i) {
        const float p = p_ji[j * B + i], ds = p * (ds_ji[j * B + i] - delta_i[i]) * in.scale;
        store(p_rows[j * B + i], p);
        ds_ji[j * B + i] = ds;
      }
    add_to_buckets(in, block, ds_ji, grad_buckets);
    if (in.soft_cap > 0)
      for (std::int64_t n = 0; n < block.count * B; ++n) ds_ji[n] *= slope_ji[n];
    for (std::int64_t n = 0; n < B * B; ++n) store(ds_rows[n], ds_ji[n]);
    pair_rows(ds_rows, B, ds_pairs);
    bf16_product(d, B, B, packed(keys.turned_k), B, ds_pairs, B, dq_di, B, true);
    if (block.in_prefix && in.prefix_k != in.k) return;  // of another row, without gradient
    const std::int64_t to_row = block.token + (block.in_prefix ? segment.to_prefix_grad : 0);
    const auto add_to = [&](float* grad, const at::BFloat16* rows, const std::uint32_t* pairs) {
      float* place = grad + (to_row * in.kv_heads + kv_head) * d;
      if (block.count == B) return bf16_product(B, d, B, rows, B, pairs, d, place, in.kv_heads * d, true);
      bf16_product(B, d, B, rows, B, pairs, d, ds_ji, d, false);
      for (std::int64_t j = 0; j < block.count; ++j)
        for (std::int64_t c = 0; c < d; ++c) place[j * in.kv_heads * d + c] += ds_ji[j * d + c];
    };
    add_to(grad_k, ds_rows, q_pairs);
    add_to(grad_v, p_rows, grad_pairs);
  });
  for (std::int64_t i = 0; i < count; ++i)
    for (std::int64_t c = 0; c < d; ++c) store(grad_q[((token + i) * in.heads + head) * d + c], dq_di[c * B + i]);
}

}  // namespace kto::detail
