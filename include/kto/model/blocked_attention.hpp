// SPDX-License-Identifier: Apache-2.0
// Causal attention on the CPU in blocks of queries and keys, forward and backward: no [L, L] scores are held, blocks
// that no query sees are left out, and the keys of a prefix are read where they lie. Sums are in float32. Its oracle is
// causal_attention_composed. (FlashAttention: arXiv:2205.14135, 2307.08691.)
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "kto/collate/batch.hpp"
#include "kto/model/attention_tiles.hpp"

namespace kto {

/// Keys and values of one layer for the tokens of a row, keys turned by their positions.
struct KeysValues {
  Tensor k_NKd, v_NKd;
};

}  // namespace kto

namespace kto::detail {

// Shapes: N tokens, H heads, K key/value heads, d head dimension; i a query of a block, j a key of a block. Scores are
// held with queries side by side, [j][i], so that all that is done to a query is done to 16 at once.

/// What the kernels are given. Pointers are to rows of all heads.
struct AttentionInput {
  const float *q, *k, *v, *prefix_k, *prefix_v;
  std::int64_t heads, kv_heads, width;
  std::int64_t window;  ///< keys that a query sees at most, itself included
  float scale;

  Rows<const float> queries(const float* data, std::int64_t token, std::int64_t head) const {
    return {data + (token * heads + head) * width, heads * width};
  }
  Rows<const float> keys(const float* data, std::int64_t token, std::int64_t head) const {
    return {data + (token * kv_heads + head / (heads / kv_heads)) * width, kv_heads * width};
  }
};

/// A block of keys as a block of queries sees it.
struct KeyBlock {
  bool in_prefix;
  std::int64_t token, count;  ///< rows [token, token + count) of the keys
  std::int64_t behind;  ///< position of query 0 less that of key 0; query i sees key j if 0 <= behind + i - j < window
};

/// Calls visit(KeyBlock) for the blocks that any of the queries [first, first + count) of a segment sees.
template <class Visit>
void visit_keys(const Segment& segment, std::int64_t first, std::int64_t count, std::int64_t window,
                const Visit& visit) {
  for (int part = 0; part < 2; ++part) {  // one call of visit, or all it does is compiled twice
    const bool in_prefix = part == 0;
    const std::int64_t token = in_prefix ? segment.prefix_begin : segment.begin;
    const std::int64_t size = in_prefix ? segment.prefix_length : segment.length;
    const std::int64_t behind = in_prefix ? segment.prefix_length + first : first;
    // Query `first` sees key j of this part from behind - window + 1 on, the last query up to behind + count - 1.
    const std::int64_t end = std::min(size, behind + count);
    std::int64_t begin = std::max<std::int64_t>(0, behind - window + 1) / attention_block * attention_block;
    for (; begin < end; begin += attention_block)
      visit(KeyBlock{in_prefix, token + begin, std::min(attention_block, end - begin), behind - begin});
  }
}

/// Sets to `value` the scores [j][i] of a block that a query may not see.
inline void mask_block(const KeyBlock& block, std::int64_t window, float* score, float value) {
  if (block.behind >= block.count - 1 && block.behind + attention_block - 1 < window) return;
  for (std::int64_t j = 0; j < block.count; ++j) {
    const std::int64_t begin = std::clamp<std::int64_t>(j - block.behind, 0, attention_block);
    const std::int64_t end = std::clamp<std::int64_t>(window + j - block.behind, begin, attention_block);
    float* row = score + j * attention_block;
    std::fill(row, row + begin, value);
    std::fill(row + end, row + attention_block, value);
  }
}

/// Queries [first, first + count) of a segment and one head: their outputs, and the logsumexp of their scores.
template <int R, int C>
void attention_forward_block(const AttentionInput& in, const Segment& segment, std::int64_t head, std::int64_t first,
                             std::int64_t count, float* out, float* log_sum, float* scratch) {
  constexpr std::int64_t B = attention_block;
  const std::int64_t d = in.width;
  float *q_di = scratch, *score_ji = q_di + d * B, *sum_id = score_ji + B * B, *max_i = sum_id + B * d,
        *total_i = max_i + B, *shrink_i = total_i + B;
  transpose_block(in.queries(in.q, segment.begin + first, head), count, d, q_di);
  for (std::int64_t n = 0; n < d * B; ++n) q_di[n] *= in.scale;
  std::fill(sum_id, sum_id + B * d, 0.0F);
  std::fill(max_i, max_i + B, -1e30F);
  std::fill(total_i, total_i + B, 0.0F);
  visit_keys(segment, first, count, in.window, [&](const KeyBlock& block) {
    const auto k = in.keys(block.in_prefix ? in.prefix_k : in.k, block.token, head);
    const auto v = in.keys(block.in_prefix ? in.prefix_v : in.v, block.token, head);
    product<R, C>(block.count, B, d, k.data, k.stride, 1, {q_di, B}, {score_ji, B}, false);
    mask_block(block, in.window, score_ji, -1e30F);
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
    mask_block(block, in.window, score_ji, 0.0F);
    for (std::int64_t j = 0; j < block.count; ++j)
      for (std::int64_t i = 0; i < B; ++i) total_i[i] += score_ji[j * B + i];
    for (std::int64_t i = 0; i < count; ++i)
      for (std::int64_t c = 0; c < d; ++c) sum_id[i * d + c] *= shrink_i[i];
    product<R, C>(count, d, block.count, score_ji, 1, B, v, {sum_id, d}, true);
  });
  for (std::int64_t i = 0; i < count; ++i) {
    float* to = out + ((segment.begin + first + i) * in.heads + head) * d;
    const float share = 1 / total_i[i];
    for (std::int64_t c = 0; c < d; ++c) to[c] = sum_id[i * d + c] * share;
    log_sum[(segment.begin + first + i) * in.heads + head] = max_i[i] + std::log(total_i[i]);
  }
}
inline std::int64_t forward_scratch(std::int64_t d) { return attention_block * (2 * d + attention_block + 3); }

/// The same block's part in the gradients: that of its queries, and what they add to those of keys and values.
template <int R, int C>
void attention_backward_block(const AttentionInput& in, const Segment& segment, std::int64_t head, std::int64_t first,
                              std::int64_t count, const float* out, const float* grad_out, const float* log_sum,
                              float* grad_q, float* grad_k, float* grad_v, float* scratch) {
  constexpr std::int64_t B = attention_block;
  const std::int64_t d = in.width, token = segment.begin + first;
  float *q_di = scratch, *grad_di = q_di + d * B, *p_ji = grad_di + d * B, *ds_ji = p_ji + B * B,
        *dq_id = ds_ji + B * B, *log_sum_i = dq_id + B * d, *delta_i = log_sum_i + B;
  const auto q_rows = in.queries(in.q, token, head), grad_rows = in.queries(grad_out, token, head),
             out_rows = in.queries(out, token, head);
  transpose_block(q_rows, count, d, q_di);
  transpose_block(grad_rows, count, d, grad_di);
  std::fill(log_sum_i, log_sum_i + B, 0.0F);
  std::fill(delta_i, delta_i + B, 0.0F);
  for (std::int64_t i = 0; i < count; ++i) {
    log_sum_i[i] = log_sum[(token + i) * in.heads + head];
    delta_i[i] = vector_sum(d, [&](std::int64_t c) { return grad_rows.row(i)[c] * out_rows.row(i)[c]; });
  }
  std::fill(dq_id, dq_id + B * d, 0.0F);
  visit_keys(segment, first, count, in.window, [&](const KeyBlock& block) {
    const auto k = in.keys(block.in_prefix ? in.prefix_k : in.k, block.token, head);
    const auto v = in.keys(block.in_prefix ? in.prefix_v : in.v, block.token, head);
    product<R, C>(block.count, B, d, k.data, k.stride, 1, {q_di, B}, {p_ji, B}, false);
    product<R, C>(block.count, B, d, v.data, v.stride, 1, {grad_di, B}, {ds_ji, B}, false);
    for (std::int64_t j = 0; j < block.count; ++j)
      for (std::int64_t i = 0; i < B; ++i) p_ji[j * B + i] = vector_exp(p_ji[j * B + i] * in.scale - log_sum_i[i]);
    mask_block(block, in.window, p_ji, 0.0F);
    for (std::int64_t j = 0; j < block.count; ++j)
      for (std::int64_t i = 0; i < B; ++i)
        ds_ji[j * B + i] = p_ji[j * B + i] * (ds_ji[j * B + i] - delta_i[i]) * in.scale;
    product<R, C>(count, d, block.count, ds_ji, 1, B, k, {dq_id, d}, true);
    if (block.in_prefix && in.prefix_k != in.k) return;  // of another row, without gradient
    const std::int64_t place = (block.token * in.kv_heads + head / (in.heads / in.kv_heads)) * d;
    product<R, C>(block.count, d, count, ds_ji, B, 1, q_rows, {grad_k + place, in.kv_heads * d}, true);
    product<R, C>(block.count, d, count, p_ji, B, 1, grad_rows, {grad_v + place, in.kv_heads * d}, true);
  });
  for (std::int64_t i = 0; i < count; ++i)
    for (std::int64_t c = 0; c < d; ++c) grad_q[((token + i) * in.heads + head) * d + c] = dq_id[i * d + c];
}
inline std::int64_t backward_scratch(std::int64_t d) { return attention_block * (3 * d + 2 * attention_block + 2); }

/// Segments of which one is a prefix of others, or all share one, are one group: they add to the same keys' gradients.
inline std::vector<std::vector<Segment>> groups_by_prefix(const std::vector<Segment>& segments) {
  std::vector<std::vector<Segment>> groups;
  std::vector<std::pair<std::int64_t, std::int64_t>> reach;  // tokens [begin, end) of a group's keys
  for (const Segment& segment : segments) {
    std::size_t home = groups.size();
    if (segment.prefix_length > 0)
      for (std::size_t g = 0; g < groups.size() && home == groups.size(); ++g)
        if (segment.prefix_begin < reach[g].second && segment.prefix_begin + segment.prefix_length > reach[g].first)
          home = g;
    if (home == groups.size()) {
      groups.emplace_back();
      reach.emplace_back(segment.begin, segment.begin + segment.length);
    }
    groups[home].push_back(segment);
  }
  return groups;
}

struct AttentionTask {
  Segment segment;
  std::int64_t head, first, count;
};

inline AttentionInput attention_input(const Tensor& q_NHd, const Tensor& k_NKd, const Tensor& v_NKd,
                                      const KeysValues& prefix, std::optional<std::int64_t> window, double scale) {
  return {.q = q_NHd.const_data_ptr<float>(),
          .k = k_NKd.const_data_ptr<float>(),
          .v = v_NKd.const_data_ptr<float>(),
          .prefix_k = prefix.k_NKd.const_data_ptr<float>(),
          .prefix_v = prefix.v_NKd.const_data_ptr<float>(),
          .heads = q_NHd.size(1),
          .kv_heads = k_NKd.size(1),
          .width = q_NHd.size(2),
          .window = window.value_or(std::numeric_limits<std::int64_t>::max() / 2),
          .scale = static_cast<float>(scale)};
}

/// As the kernels read it.
inline Tensor plain_floats(const Tensor& x) { return x.to(at::kFloat).contiguous(); }

/// What the backward pass needs besides its tensors.
struct AttentionPlan : torch::CustomClassHolder {
  std::vector<Segment> segments;
  std::optional<std::int64_t> window;
  double scale;
};

struct BlockedAttention : torch::autograd::Function<BlockedAttention> {
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& q_NHd, const Tensor& k_NKd,
                        const Tensor& v_NKd, const KeysValues& prefix, const std::vector<Segment>& segments,
                        std::optional<std::int64_t> window, double scale) {
    const bool own = !prefix.k_NKd.defined();
    const Tensor q = plain_floats(q_NHd), k = plain_floats(k_NKd), v = plain_floats(v_NKd);
    const KeysValues before =
        own ? KeysValues{k, v} : KeysValues{plain_floats(prefix.k_NKd), plain_floats(prefix.v_NKd)};
    const Tensor out_NHd = at::empty_like(q), log_sum_NH = at::empty({q.size(0), q.size(1)}, q.options());
    std::vector<AttentionTask> tasks;
    for (const Segment& segment : segments)
      for (std::int64_t first = 0; first < segment.length; first += attention_block)
        for (std::int64_t head = 0; head < q.size(1); ++head)
          tasks.push_back({segment, head, first, std::min(attention_block, segment.length - first)});
    const AttentionInput in = attention_input(q, k, v, before, window, scale);
    auto *out = out_NHd.mutable_data_ptr<float>(), *log_sum = log_sum_NH.mutable_data_ptr<float>();
    parallel_tasks(static_cast<std::int64_t>(tasks.size()), [&](std::int64_t n) {
      const AttentionTask& task = tasks[static_cast<std::size_t>(n)];
      float* scratch = thread_scratch(forward_scratch(in.width));
      run_for_registers([&]<int R, int C>() {
        attention_forward_block<R, C>(in, task.segment, task.head, task.first, task.count, out, log_sum, scratch);
      });
    });
    const Tensor result = out_NHd.to(q_NHd.scalar_type());
    ctx->save_for_backward({q_NHd, k_NKd, v_NKd, prefix.k_NKd, prefix.v_NKd, result, log_sum_NH});
    const auto plan = c10::make_intrusive<AttentionPlan>();
    plan->segments = segments, plan->window = window, plan->scale = scale;
    ctx->saved_data["plan"] = at::IValue::make_capsule(plan);
    return result;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    check(!at::GradMode::is_enabled(),
          "causal_attention has no second derivatives on the CPU: use causal_attention_composed");
    const auto saved = ctx->get_saved_variables();
    const Tensor q = plain_floats(saved[0]), k = plain_floats(saved[1]), v = plain_floats(saved[2]);
    const KeysValues before =
        saved[3].defined() ? KeysValues{plain_floats(saved[3]), plain_floats(saved[4])} : KeysValues{k, v};
    const Tensor out_NHd = plain_floats(saved[5]), grad_NHd = plain_floats(grads[0]), grad_q = at::empty_like(q),
                 grad_k = at::zeros_like(k), grad_v = at::zeros_like(v);
    const auto capsule = ctx->saved_data["plan"].toCapsule();
    const auto& plan = static_cast<const AttentionPlan&>(*capsule);
    // A group of segments and a key head add to gradients that no other task touches.
    const auto groups = groups_by_prefix(plan.segments);
    const std::int64_t kv_heads = k.size(1), per_key_head = q.size(1) / kv_heads;
    const AttentionInput in = attention_input(q, k, v, before, plan.window, plan.scale);
    const auto *out = out_NHd.const_data_ptr<float>(), *grad = grad_NHd.const_data_ptr<float>(),
               *log_sum = saved[6].const_data_ptr<float>();
    auto *to_q = grad_q.mutable_data_ptr<float>(), *to_k = grad_k.mutable_data_ptr<float>(),
         *to_v = grad_v.mutable_data_ptr<float>();
    parallel_tasks(static_cast<std::int64_t>(groups.size()) * kv_heads, [&](std::int64_t n) {
      float* scratch = thread_scratch(backward_scratch(in.width));
      const std::int64_t first_head = n % kv_heads * per_key_head;
      for (const Segment& segment : groups[static_cast<std::size_t>(n / kv_heads)])
        for (std::int64_t head = first_head; head < first_head + per_key_head; ++head)
          for (std::int64_t first = 0; first < segment.length; first += attention_block) {
            const std::int64_t count = std::min(attention_block, segment.length - first);
            run_for_registers([&]<int R, int C>() {
              attention_backward_block<R, C>(in, segment, head, first, count, out, grad, log_sum, to_q, to_k, to_v,
                                             scratch);
            });
          }
    });
    const at::ScalarType type = saved[0].scalar_type();
    return {grad_q.to(type), grad_k.to(type), grad_v.to(type), {}, {}, {}, {}};
  }
};

/// Whether the kernels take it; they compute in float32. In bfloat16 a processor with AMX is faster through LibTorch's
/// own attention.
inline bool takes_blocked_attention(const Tensor& q_NHd, const Tensor& k_NKd, const Tensor& v_NKd) {
  const bool one_type = q_NHd.scalar_type() == k_NKd.scalar_type() && k_NKd.scalar_type() == v_NKd.scalar_type();
  const bool narrow = takes_vectorized(q_NHd) || (q_NHd.is_cpu() && q_NHd.scalar_type() == at::kHalf);
  return narrow && one_type && q_NHd.size(2) % 16 == 0 && q_NHd.numel() > 0 &&
         (q_NHd.scalar_type() != at::kBFloat16 || !has_amx_bf16());
}

}  // namespace kto::detail
