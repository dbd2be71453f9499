// SPDX-License-Identifier: Apache-2.0
// Attention on the CPU in blocks of queries and keys, forward and backward: no [L, L] scores are held, blocks
// that no query sees are left out, and the keys of a prefix are read where they lie. Sums are in float32. Its oracle is
// attention_composed. (FlashAttention: arXiv:2205.14135, 2307.08691.)
#pragma once

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "kto/nn/alibi.hpp"
#include "kto/nn/attention_form.hpp"
#include "kto/nn/cpu/attention_segments.hpp"
#include "kto/nn/cpu/bf16_attention.hpp"
#include "kto/nn/cpu/float_attention.hpp"
#include "kto/nn/cpu/token_attention.hpp"
#include "kto/nn/kept.hpp"
#include "kto/nn/keys_values.hpp"
#include "kto/nn/relative_bias.hpp"

namespace kto::detail {

// Shapes as in attention_blocks.hpp.

struct AttentionTask {
  std::size_t segment;
  std::int64_t head, first, count;
};

/// As the kernels read it.
inline Tensor plain(const Tensor& x, at::ScalarType type) { return x.to(type).contiguous(); }

/// An AttentionForm as the kernels read it; they read its tensors while it lives. Shapes: R distances, B buckets.
struct ScoreNumbers {
  const AttentionForm& form;
  bool is_causal;
  Tensor sinks_H, bias_HS, bucket_R, relative_HR;

  /// Queries and keys are at positions up to `num_positions`.
  ScoreNumbers(const AttentionForm& given, bool causal, std::int64_t num_heads, std::int64_t num_positions)
      : form(given), is_causal(causal) {
    if (form.sinks_H.defined()) sinks_H = plain(form.sinks_H, at::kFloat);
    if (form.alibi) bias_HS = alibi_key_biases(*form.alibi, num_heads, num_positions, at::kCPU, at::kFloat);
    if (!form.relative) return;
    const Tensor distance_R = at::arange(num_positions - 1, -num_positions, -1, at::kLong);
    bucket_R = relative_buckets(*form.relative, distance_R);
    relative_HR = plain(form.bias_BH.detach().index_select(0, bucket_R).t(), at::kFloat);
    bucket_R = bucket_R.to(at::kInt);
  }
  ScoreNumbers(const AttentionForm& given, bool causal, std::int64_t num_heads,
               const std::vector<KeyedSegment>& segments)
      : ScoreNumbers(given, causal, num_heads, num_positions(segments)) {}

  /// With room for a whole block of queries behind the last position.
  static std::int64_t num_positions(const std::vector<KeyedSegment>& segments) {
    std::int64_t out = 0;
    for (const KeyedSegment& segment : segments)
      out = std::max({out, segment.prefix_length + segment.length, segment.own.length});
    return out + attention_block;
  }
};

template <class Number>
AttentionInput<Number> attention_input(const Tensor& q_NHd, const Tensor& k_NKd, const Tensor& v_NKd,
                                       const KeysValues& prefix, const ScoreNumbers& scores) {
  const auto data = [](const Tensor& numbers) { return numbers.defined() ? numbers.const_data_ptr<float>() : nullptr; };
  constexpr std::int64_t all = std::numeric_limits<std::int64_t>::max() / 2;
  const auto& [bucket_R, relative_HR] = std::tie(scores.bucket_R, scores.relative_HR);
  return {.q = q_NHd.const_data_ptr<Number>(),
          .k = k_NKd.defined() ? k_NKd.const_data_ptr<Number>() : nullptr,
          .v = v_NKd.defined() ? v_NKd.const_data_ptr<Number>() : nullptr,
          .prefix_k = prefix.k_NKd.const_data_ptr<Number>(),
          .prefix_v = prefix.v_NKd.const_data_ptr<Number>(),
          .heads = q_NHd.size(1),
          .kv_heads = prefix.k_NKd.size(1),
          .width = q_NHd.size(2),
          .value_width = prefix.v_NKd.size(2),
          .window = scores.form.window.value_or(all),
          .ahead = scores.is_causal ? 0 : all,
          .scale = static_cast<float>(scores.form.scale),
          .soft_cap = static_cast<float>(scores.form.soft_cap),
          .biases = data(scores.bias_HS),
          .positions = scores.bias_HS.defined() ? scores.bias_HS.size(1) : 0,
          .sinks = data(scores.sinks_H),
          .relative = data(relative_HR),
          .buckets = bucket_R.defined() ? bucket_R.const_data_ptr<int>() : nullptr,
          .distances = bucket_R.numel(),
          .nearest = bucket_R.numel() / 2};
}

/// Whether the kernels of bf16_attention.hpp take it.
inline bool takes_bf16_attention(const Tensor& q_NHd, const Tensor& v_NKd) {
  return q_NHd.scalar_type() == at::kBFloat16 && q_NHd.size(2) % 32 == 0 && q_NHd.size(2) == v_NKd.size(2) &&
         has_bf16_product();
}

/// What the backward pass needs besides its tensors.
struct AttentionPlan {
  std::vector<KeyedSegment> segments;
  bool is_causal;
  AttentionForm form;  ///< without its tensors, which are saved as such
};

/// A sink's score moves the softmax of each token as a key's would whose value is 0.
inline Tensor sinks_grad(const Tensor& sinks_H, const Tensor& log_sum_NH, const Tensor& out_NHd,
                         const Tensor& grad_NHd) {
  const Tensor share_NH = (sinks_H.to(at::kFloat) - log_sum_NH).exp();
  const Tensor delta_NH = (out_NHd.to(at::kFloat) * grad_NHd.to(at::kFloat)).sum(-1);
  return (share_NH * delta_NH).sum(0).neg().to(sinks_H.scalar_type());
}

template <class = void>
struct BlockedAttention : torch::autograd::Function<BlockedAttention<>> {
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& q_NHd, const Tensor& k_NKd,
                        const Tensor& v_NKd, const std::optional<Tensor>& sinks_H, const std::optional<Tensor>& bias_BH,
                        const KeysValues& prefix, AttentionPlan plan);
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads);
};

template <class Unused>
Tensor BlockedAttention<Unused>::forward(torch::autograd::AutogradContext* ctx, const Tensor& q_NHd,
                                         const Tensor& k_NKd, const Tensor& v_NKd, const std::optional<Tensor>& sinks_H,
                                         const std::optional<Tensor>& bias_BH, const KeysValues& prefix,
                                         AttentionPlan plan) {
  const auto& segments = plan.segments;
  plan.form.sinks_H = sinks_H.value_or(Tensor());
  plan.form.bias_BH = bias_BH.value_or(Tensor());
  const bool own = !prefix.k_NKd.defined();
  const at::ScalarType type = q_NHd.scalar_type();
  const Tensor q = plain(q_NHd, type), k = plain(k_NKd, type), v = plain(v_NKd, type);
  const ScoreNumbers scores(plan.form, plan.is_causal, q.size(1), segments);
  const KeysValues before = own ? KeysValues{k, v} : KeysValues{plain(prefix.k_NKd, type), plain(prefix.v_NKd, type)};
  const Tensor out_NHd = at::empty({q.size(0), q.size(1), v.size(2)}, q.options()),
               log_sum_NH = at::empty({q.size(0), q.size(1)}, q.options().dtype(at::kFloat));
  std::vector<AttentionTask> tasks;
  for (std::size_t s = 0; s < segments.size(); ++s)
    for (std::int64_t first = 0; first < segments[s].length; first += attention_block)
      for (std::int64_t head = 0; head < q.size(1); ++head)
        tasks.push_back({s, head, first, std::min(attention_block, segments[s].length - first)});
  auto* log_sum = log_sum_NH.mutable_data_ptr<float>();
  if (takes_bf16_attention(q, v)) {
    const auto in = attention_input<at::BFloat16>(q, k, v, before, scores);
    const PackedKeys keys = pack_keys(in, segments, k.options(), /*backward=*/false);
    auto* out = out_NHd.mutable_data_ptr<at::BFloat16>();
    parallel_tasks(static_cast<std::int64_t>(tasks.size()), [&](std::int64_t n) {
      const AttentionTask& task = tasks[static_cast<std::size_t>(n)];
      run_bf16([&] {
        bf16_forward_block(in, keys, task.segment, segments[task.segment], task.head, task.first, task.count, out,
                           log_sum);
      });
    });
  } else {
    visit_type(type, [&]<class Number>(Number*) {
      const auto in = attention_input<Number>(q, k, v, before, scores);
      auto* out = out_NHd.mutable_data_ptr<Number>();
      parallel_tasks(static_cast<std::int64_t>(tasks.size()), [&](std::int64_t n) {
        const AttentionTask& task = tasks[static_cast<std::size_t>(n)];
        float* scratch = thread_scratch(forward_scratch(in.width, in.value_width));
        run_with_products([&]<class Products>() {
          attention_forward_block<Products>(in, segments[task.segment], task.head, task.first, task.count, out, log_sum,
                                            scratch);
        });
      });
    });
  }
  ctx->save_for_backward(
      {q_NHd, k_NKd, v_NKd, prefix.k_NKd, prefix.v_NKd, out_NHd, log_sum_NH, plan.form.sinks_H, plan.form.bias_BH});
  plan.form.sinks_H = plan.form.bias_BH = Tensor();
  keep(ctx, "plan", std::move(plan));
  return out_NHd;
}

template <class Unused>
torch::autograd::variable_list BlockedAttention<Unused>::backward(torch::autograd::AutogradContext* ctx,
                                                                  const torch::autograd::variable_list& grads) {
  check(!at::GradMode::is_enabled(), "attention has no second derivatives on the CPU: use attention_composed");
  const auto saved = ctx->get_saved_variables();
  const at::ScalarType type = saved[0].scalar_type();
  const Tensor q = plain(saved[0], type), k = plain(saved[1], type), v = plain(saved[2], type);
  const KeysValues before =
      saved[3].defined() ? KeysValues{plain(saved[3], type), plain(saved[4], type)} : KeysValues{k, v};
  const Tensor out_NHd = plain(saved[5], type), grad_NHd = plain(grads[0], type), grad_q = at::empty_like(q);
  const auto& plan = *kept<AttentionPlan>(ctx, "plan");
  AttentionForm form = plan.form;
  form.bias_BH = saved[8];
  const ScoreNumbers scores(form, plan.is_causal, q.size(1), plan.segments);
  std::vector<KeyedSegment> segments = plan.segments;
  const std::int64_t num_keys = k.size(0),
                     num_rows = saved[3].defined() ? num_keys : give_room_for_prefixes(segments, num_keys);
  const auto wide = q.options().dtype(at::kFloat);
  const Tensor grad_k = at::zeros({num_rows, k.size(1), k.size(2)}, wide),
               grad_v = at::zeros({num_rows, v.size(1), v.size(2)}, wide);
  // A group of segments and a key head add to gradients that no other task touches.
  const auto groups = groups_by_keys(segments);
  const std::int64_t num_buckets = form.bias_BH.defined() ? form.bias_BH.size(0) : 0;
  const Tensor grad_bias_GHB = at::zeros({static_cast<std::int64_t>(groups.size()), q.size(1), num_buckets}, wide);
  const std::int64_t kv_heads = k.size(1), per_key_head = q.size(1) / kv_heads;
  const auto* log_sum = saved[6].const_data_ptr<float>();
  auto *to_k = grad_k.mutable_data_ptr<float>(), *to_v = grad_v.mutable_data_ptr<float>(),
       *to_bias = grad_bias_GHB.mutable_data_ptr<float>();
  // visit(segment's number, head, first query, number of queries, the head's gradients of buckets)
  const auto for_blocks = [&](const auto& visit) {
    parallel_tasks(static_cast<std::int64_t>(groups.size()) * kv_heads, [&](std::int64_t n) {
      const std::int64_t first_head = n % kv_heads * per_key_head;
      for (const std::size_t s : groups[static_cast<std::size_t>(n / kv_heads)])
        for (std::int64_t head = first_head; head < first_head + per_key_head; ++head)
          for (std::int64_t first = 0; first < segments[s].length; first += attention_block)
            visit(s, head, first, std::min(attention_block, segments[s].length - first),
                  to_bias + (n / kv_heads * q.size(1) + head) * num_buckets);
    });
  };
  if (takes_bf16_attention(q, v)) {
    const auto in = attention_input<at::BFloat16>(q, k, v, before, scores);
    const PackedKeys keys = pack_keys(in, segments, k.options(), /*backward=*/true);
    const auto *out = out_NHd.const_data_ptr<at::BFloat16>(), *grad = grad_NHd.const_data_ptr<at::BFloat16>();
    auto* to_q = grad_q.mutable_data_ptr<at::BFloat16>();
    for_blocks([&](std::size_t s, std::int64_t head, std::int64_t first, std::int64_t count, float* to_buckets) {
      run_bf16([&] {
        bf16_backward_block(in, keys, s, segments[s], head, first, count, out, grad, log_sum, to_q, to_k, to_v,
                            to_buckets);
      });
    });
  } else {
    visit_type(type, [&]<class Number>(Number*) {
      const auto in = attention_input<Number>(q, k, v, before, scores);
      const auto *out = out_NHd.const_data_ptr<Number>(), *grad = grad_NHd.const_data_ptr<Number>();
      auto* to_q = grad_q.mutable_data_ptr<Number>();
      for_blocks([&](std::size_t s, std::int64_t head, std::int64_t first, std::int64_t count, float* to_buckets) {
        float* scratch = thread_scratch(backward_scratch(in.width, in.value_width));
        run_with_products([&]<class Products>() {
          attention_backward_block<Products>(in, segments[s], head, first, count, out, grad, log_sum, to_q, to_k, to_v,
                                             to_buckets, scratch);
        });
      });
    });
  }
  const Tensor grad_sinks = saved[7].defined() ? sinks_grad(saved[7], saved[6], out_NHd, grad_NHd) : Tensor();
  // Scores are scaled before they get biases.
  const Tensor grad_bias =
      num_buckets > 0 ? (grad_bias_GHB.sum(0).t() / form.scale).to(form.bias_BH.scalar_type()) : Tensor();
  const auto of_row = [&](const Tensor& grad) { return with_those_of_prefixes(grad, segments, num_keys).to(type); };
  return {grad_q, of_row(grad_k), of_row(grad_v), grad_sinks, grad_bias, {}, {}};
}
KTO_COMPILED_ONCE(struct BlockedAttention<>);

/// Whether it is one token without gradient, after those of another row or to other keys, as in generation.
inline bool is_next_token(const Tensor& q_NHd, const std::vector<Segment>& segments, const KeysValues& prefix,
                          const std::vector<KeyRange>& keys) {
  return segments.size() == 1 && segments[0].length == 1 && takes_vectorized(q_NHd) && !at::GradMode::is_enabled() &&
         (!keys.empty() || (segments[0].prefix_length > 0 && prefix.k_NKd.defined()));
}

template <class = void>
Tensor attend_next_token(const Tensor& q_1Hd, const Tensor& k_MKd, const Tensor& v_MKd, const KeysValues& prefix,
                         const Segment& segment, const std::vector<KeyRange>& keys, const AttentionForm& form) {
  const bool is_causal = keys.empty();
  const at::ScalarType type = q_1Hd.scalar_type();
  const KeyRange range = is_causal ? KeyRange{segment.prefix_begin, segment.prefix_length} : keys[0];
  const auto seen = [&](const Tensor& x) { return plain(x.narrow(0, range.begin, range.length), type); };
  const KeysValues before{seen(is_causal ? prefix.k_NKd : k_MKd), seen(is_causal ? prefix.v_NKd : v_MKd)},
      own = is_causal ? KeysValues{plain(k_MKd, type), plain(v_MKd, type)} : KeysValues{};
  const Tensor q = plain(q_1Hd, type), out_1Hd = at::empty({1, q.size(1), before.v_NKd.size(2)}, q.options());
  const ScoreNumbers scores(form, is_causal, q.size(1), range.length + 1);
  visit_type(type, [&]<class Number>(Number*) {
    token_attention(attention_input<Number>(q, own.k_NKd, own.v_NKd, before, scores), range.length,
                    out_1Hd.mutable_data_ptr<Number>());
  });
  return out_1Hd;
}
KTO_COMPILED_ONCE(Tensor attend_next_token<>(const Tensor&, const Tensor&, const Tensor&, const KeysValues&,
                                             const Segment&, const std::vector<KeyRange>&, const AttentionForm&));

/// attention() by these kernels.
inline Tensor blocked_attention(const Tensor& q_NHd, const Tensor& k_MKd, const Tensor& v_MKd, const KeysValues& prefix,
                                const std::vector<Segment>& segments, const std::vector<KeyRange>& keys,
                                AttentionForm form) {
  const auto given = [](const Tensor& x) { return x.defined() ? std::optional(x) : std::nullopt; };
  const auto sinks_H = given(form.sinks_H), bias_BH = given(form.bias_BH);
  form.sinks_H = form.bias_BH = Tensor();
  return BlockedAttention<>::apply(q_NHd, k_MKd, v_MKd, sinks_H, bias_BH, prefix,
                                   AttentionPlan{with_keys(segments, keys), keys.empty(), std::move(form)});
}

/// Whether the kernels take it: floating types up to float32 on the CPU. Those for bfloat16 on processors with tile
/// registers want heads of a multiple of 32; where they do not serve there, LibTorch's own attention is the faster one.
inline bool takes_blocked_attention(const Tensor& q_NHd, const Tensor& k_NKd, const Tensor& v_NKd) {
  const bool one_type = q_NHd.scalar_type() == k_NKd.scalar_type() && k_NKd.scalar_type() == v_NKd.scalar_type();
  return takes_vectorized(q_NHd) && one_type && q_NHd.size(2) % 16 == 0 && v_NKd.size(2) % 16 == 0 &&
         q_NHd.numel() > 0 &&
         (q_NHd.scalar_type() != at::kBFloat16 || !has_amx() || takes_bf16_attention(q_NHd, v_NKd));
}

}  // namespace kto::detail
