// SPDX-License-Identifier: Apache-2.0
// Causal attention on the CPU in blocks of queries and keys, forward and backward: no [L, L] scores are held, blocks
// that no query sees are left out, and the keys of a prefix are read where they lie. Sums are in float32. Its oracle is
// causal_attention_composed. (FlashAttention: arXiv:2205.14135, 2307.08691.)
#pragma once

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "kto/nn/alibi.hpp"
#include "kto/nn/attention_form.hpp"
#include "kto/nn/cpu/bf16_attention.hpp"
#include "kto/nn/cpu/float_attention.hpp"
#include "kto/nn/cpu/token_attention.hpp"
#include "kto/nn/kept.hpp"
#include "kto/nn/keys_values.hpp"

namespace kto::detail {

// Shapes as in attention_blocks.hpp.

/// The numbers of segments of which one is a prefix of others, or all share one, are one group: they add to the same
/// keys' gradients. Those with the most to do come first.
inline std::vector<std::vector<std::size_t>> groups_by_prefix(const std::vector<Segment>& segments) {
  struct Group {
    std::vector<std::size_t> members;
    std::int64_t begin, end;  // tokens of its keys
    std::int64_t cost = 0;
  };
  std::vector<Group> groups;
  for (std::size_t s = 0; s < segments.size(); ++s) {
    const Segment& segment = segments[s];
    const auto shares = [&](const Group& group) {
      return segment.prefix_length > 0 && segment.prefix_begin < group.end &&
             segment.prefix_begin + segment.prefix_length > group.begin;
    };
    auto home = std::ranges::find_if(groups, shares);
    if (home == groups.end()) home = groups.insert(home, Group{{}, segment.begin, segment.begin + segment.length});
    home->members.push_back(s);
    home->cost += segment.length * (segment.prefix_length + segment.length / 2);
  }
  std::ranges::stable_sort(groups, std::ranges::greater{}, &Group::cost);
  std::vector<std::vector<std::size_t>> out;
  out.reserve(groups.size());
  for (Group& group : groups) out.push_back(std::move(group.members));
  return out;
}

struct AttentionTask {
  std::size_t segment;
  std::int64_t head, first, count;
};

/// As the kernels read it.
inline Tensor plain(const Tensor& x, at::ScalarType type) { return x.to(type).contiguous(); }

/// An AttentionForm as the kernels read it; they read its tensors while it lives.
struct ScoreNumbers {
  const AttentionForm& form;
  Tensor sinks_H, bias_HS;

  /// For that many heads and positions.
  ScoreNumbers(const AttentionForm& given, std::int64_t num_heads, std::int64_t num_positions) : form(given) {
    if (form.sinks_H.defined()) sinks_H = plain(form.sinks_H, at::kFloat);
    if (form.alibi) bias_HS = alibi_key_biases(*form.alibi, num_heads, num_positions, at::kCPU, at::kFloat);
  }
  ScoreNumbers(const AttentionForm& given, std::int64_t num_heads, const std::vector<Segment>& segments)
      : ScoreNumbers(given, num_heads, num_positions(segments)) {}

  /// With room for a whole block of queries behind the last position.
  static std::int64_t num_positions(const std::vector<Segment>& segments) {
    std::int64_t out = 0;
    for (const Segment& segment : segments) out = std::max(out, segment.prefix_length + segment.length);
    return out + attention_block;
  }
};

template <class Number>
AttentionInput<Number> attention_input(const Tensor& q_NHd, const Tensor& k_NKd, const Tensor& v_NKd,
                                       const KeysValues& prefix, const ScoreNumbers& scores) {
  const auto data = [](const Tensor& numbers) { return numbers.defined() ? numbers.const_data_ptr<float>() : nullptr; };
  return {.q = q_NHd.const_data_ptr<Number>(),
          .k = k_NKd.const_data_ptr<Number>(),
          .v = v_NKd.const_data_ptr<Number>(),
          .prefix_k = prefix.k_NKd.const_data_ptr<Number>(),
          .prefix_v = prefix.v_NKd.const_data_ptr<Number>(),
          .heads = q_NHd.size(1),
          .kv_heads = k_NKd.size(1),
          .width = q_NHd.size(2),
          .value_width = v_NKd.size(2),
          .window = scores.form.window.value_or(std::numeric_limits<std::int64_t>::max() / 2),
          .scale = static_cast<float>(scores.form.scale),
          .soft_cap = static_cast<float>(scores.form.soft_cap),
          .biases = data(scores.bias_HS),
          .positions = scores.bias_HS.defined() ? scores.bias_HS.size(1) : 0,
          .sinks = data(scores.sinks_H)};
}

/// Whether the kernels of bf16_attention.hpp take it.
inline bool takes_bf16_attention(const Tensor& q_NHd, const Tensor& v_NKd) {
  return q_NHd.scalar_type() == at::kBFloat16 && q_NHd.size(2) % 32 == 0 && q_NHd.size(2) == v_NKd.size(2) &&
         has_bf16_product();
}

/// What the backward pass needs besides its tensors.
struct AttentionPlan {
  std::vector<Segment> segments;
  AttentionForm form;  ///< without sinks, which are saved as a tensor
};

/// A sink's score moves the softmax of each token as a key's would whose value is 0.
inline Tensor sinks_grad(const Tensor& sinks_H, const Tensor& log_sum_NH, const Tensor& out_NHd,
                         const Tensor& grad_NHd) {
  const Tensor share_NH = (sinks_H.to(at::kFloat) - log_sum_NH).exp();
  const Tensor delta_NH = (out_NHd.to(at::kFloat) * grad_NHd.to(at::kFloat)).sum(-1);
  return (share_NH * delta_NH).sum(0).neg().to(sinks_H.scalar_type());
}

struct BlockedAttention : torch::autograd::Function<BlockedAttention> {
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& q_NHd, const Tensor& k_NKd,
                        const Tensor& v_NKd, const std::optional<Tensor>& sinks_H, const KeysValues& prefix,
                        const std::vector<Segment>& segments, AttentionForm form) {
    const bool own = !prefix.k_NKd.defined();
    const at::ScalarType type = q_NHd.scalar_type();
    const Tensor q = plain(q_NHd, type), k = plain(k_NKd, type), v = plain(v_NKd, type);
    const ScoreNumbers scores(form, q.size(1), segments);
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
            attention_forward_block<Products>(in, segments[task.segment], task.head, task.first, task.count, out,
                                              log_sum, scratch);
          });
        });
      });
    }
    ctx->save_for_backward(
        {q_NHd, k_NKd, v_NKd, prefix.k_NKd, prefix.v_NKd, out_NHd, log_sum_NH, sinks_H.value_or(Tensor())});
    form.sinks_H = Tensor();
    keep(ctx, "plan", AttentionPlan{segments, form});
    return out_NHd;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    check(!at::GradMode::is_enabled(),
          "causal_attention has no second derivatives on the CPU: use causal_attention_composed");
    const auto saved = ctx->get_saved_variables();
    const at::ScalarType type = saved[0].scalar_type();
    const Tensor q = plain(saved[0], type), k = plain(saved[1], type), v = plain(saved[2], type);
    const KeysValues before =
        saved[3].defined() ? KeysValues{plain(saved[3], type), plain(saved[4], type)} : KeysValues{k, v};
    const Tensor out_NHd = plain(saved[5], type), grad_NHd = plain(grads[0], type), grad_q = at::empty_like(q),
                 grad_k = at::zeros(k.sizes(), k.options().dtype(at::kFloat)),
                 grad_v = at::zeros(v.sizes(), grad_k.options());
    const auto& plan = *kept<AttentionPlan>(ctx, "plan");
    const ScoreNumbers scores(plan.form, q.size(1), plan.segments);
    // A group of segments and a key head add to gradients that no other task touches.
    const auto groups = groups_by_prefix(plan.segments);
    const std::int64_t kv_heads = k.size(1), per_key_head = q.size(1) / kv_heads;
    const auto* log_sum = saved[6].const_data_ptr<float>();
    auto *to_k = grad_k.mutable_data_ptr<float>(), *to_v = grad_v.mutable_data_ptr<float>();
    // visit(segment's number, head, first query, number of queries)
    const auto for_blocks = [&](const auto& visit) {
      parallel_tasks(static_cast<std::int64_t>(groups.size()) * kv_heads, [&](std::int64_t n) {
        const std::int64_t first_head = n % kv_heads * per_key_head;
        for (const std::size_t s : groups[static_cast<std::size_t>(n / kv_heads)])
          for (std::int64_t head = first_head; head < first_head + per_key_head; ++head)
            for (std::int64_t first = 0; first < plan.segments[s].length; first += attention_block)
              visit(s, head, first, std::min(attention_block, plan.segments[s].length - first));
      });
    };
    if (takes_bf16_attention(q, v)) {
      const auto in = attention_input<at::BFloat16>(q, k, v, before, scores);
      const PackedKeys keys = pack_keys(in, plan.segments, k.options(), /*backward=*/true);
      const auto *out = out_NHd.const_data_ptr<at::BFloat16>(), *grad = grad_NHd.const_data_ptr<at::BFloat16>();
      auto* to_q = grad_q.mutable_data_ptr<at::BFloat16>();
      for_blocks([&](std::size_t s, std::int64_t head, std::int64_t first, std::int64_t count) {
        run_bf16([&] {
          bf16_backward_block(in, keys, s, plan.segments[s], head, first, count, out, grad, log_sum, to_q, to_k, to_v);
        });
      });
    } else {
      visit_type(type, [&]<class Number>(Number*) {
        const auto in = attention_input<Number>(q, k, v, before, scores);
        const auto *out = out_NHd.const_data_ptr<Number>(), *grad = grad_NHd.const_data_ptr<Number>();
        auto* to_q = grad_q.mutable_data_ptr<Number>();
        for_blocks([&](std::size_t s, std::int64_t head, std::int64_t first, std::int64_t count) {
          float* scratch = thread_scratch(backward_scratch(in.width, in.value_width));
          run_with_products([&]<class Products>() {
            attention_backward_block<Products>(in, plan.segments[s], head, first, count, out, grad, log_sum, to_q, to_k,
                                               to_v, scratch);
          });
        });
      });
    }
    const Tensor grad_sinks = saved[7].defined() ? sinks_grad(saved[7], saved[6], out_NHd, grad_NHd) : Tensor();
    return {grad_q, grad_k.to(type), grad_v.to(type), grad_sinks, {}, {}, {}};
  }
};

/// Whether it is one token without gradient after those of another row, as in generation.
inline bool is_next_token(const Tensor& q_NHd, const std::vector<Segment>& segments, const KeysValues& prefix) {
  return segments.size() == 1 && segments[0].length == 1 && segments[0].prefix_length > 0 && prefix.k_NKd.defined() &&
         takes_vectorized(q_NHd) && !at::GradMode::is_enabled();
}

inline Tensor attend_next_token(const Tensor& q_1Hd, const Tensor& k_1Kd, const Tensor& v_1Kd, const KeysValues& prefix,
                                const Segment& segment, const AttentionForm& form) {
  const at::ScalarType type = q_1Hd.scalar_type();
  const auto seen = [&](const Tensor& x) {
    return plain(x.narrow(0, segment.prefix_begin, segment.prefix_length), type);
  };
  const KeysValues before{seen(prefix.k_NKd), seen(prefix.v_NKd)};
  const Tensor q = plain(q_1Hd, type), k = plain(k_1Kd, type), v = plain(v_1Kd, type),
               out_1Hd = at::empty({1, q.size(1), v.size(2)}, q.options());
  const ScoreNumbers scores(form, q.size(1), segment.prefix_length + 1);
  visit_type(type, [&]<class Number>(Number*) {
    token_attention(attention_input<Number>(q, k, v, before, scores), segment.prefix_length,
                    out_1Hd.mutable_data_ptr<Number>());
  });
  return out_1Hd;
}

/// causal_attention by these kernels.
inline Tensor blocked_attention(const Tensor& q_NHd, const Tensor& k_NKd, const Tensor& v_NKd, const KeysValues& prefix,
                                const std::vector<Segment>& segments, const AttentionForm& form) {
  return BlockedAttention::apply(
      q_NHd, k_NKd, v_NKd, form.sinks_H.defined() ? std::optional(form.sinks_H) : std::nullopt, prefix, segments, form);
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
