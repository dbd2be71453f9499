// SPDX-License-Identifier: Apache-2.0
// The gated delta rule on the CPU for spans of a row's tokens, as one autograd function: spans and heads side by side,
// the chunks of each one after the other.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "kto/core/torch.hpp"
#include "kto/nn/cpu/delta_chunks.hpp"
#include "kto/nn/kept.hpp"

namespace kto::detail {

// Shapes: N tokens, T of spans, S spans, K key heads, H = G K value heads, d key and e value width; P states between
// chunks.

/// Tokens [begin, begin + length) of a row.
struct TokenSpan {
  std::int64_t begin = 0, length = 0;
  friend bool operator==(const TokenSpan&, const TokenSpan&) = default;
};

/// Where the chunks of all spans lie.
struct DeltaPlan {
  std::vector<TokenSpan> spans;
  std::vector<std::int64_t> first_out, first_state;  ///< of each span: among T tokens, among P states
  std::int64_t num_tokens = 0, num_states = 0;

  explicit DeltaPlan(std::vector<TokenSpan> given) : spans(std::move(given)) {
    for (const TokenSpan& span : spans) {
      first_out.push_back(num_tokens);
      first_state.push_back(num_states);
      num_tokens += span.length;
      num_states += num_chunks(span) - 1;
    }
  }
  static std::int64_t num_chunks(const TokenSpan& span) {
    return (span.length + attention_block - 1) / attention_block;
  }
  /// Whether no token is in two spans.
  bool is_apart() const {
    auto sorted = spans;
    std::ranges::sort(sorted, {}, &TokenSpan::begin);
    const auto overlap = [](const TokenSpan& a, const TokenSpan& b) { return a.begin + a.length > b.begin; };
    return std::ranges::adjacent_find(sorted, overlap) == sorted.end();
  }
};

/// The tensors of a scan, as the kernels read them.
struct DeltaNumbers {
  Tensor q_NKd, k_NKd, v_NHe, decay_NH, beta_NH, state_SHde;  ///< the first and the last may be undefined
  Tensor between_PHde;                                        ///< the states between chunks

  std::int64_t key_heads() const { return k_NKd.size(1); }
  std::int64_t heads() const { return v_NHe.size(1); }
  std::int64_t width() const { return k_NKd.size(2); }
  std::int64_t value_width() const { return v_NHe.size(2); }
  std::int64_t state_size() const { return width() * value_width(); }

  static const float* data(const Tensor& x) { return x.defined() ? x.const_data_ptr<float>() : nullptr; }
  template <class Number>
  static Rows<Number> rows(Number* data, const Tensor& like, std::int64_t token, std::int64_t head) {
    const std::int64_t width = like.dim() > 2 ? like.size(2) : 1, stride = like.size(1) * width;
    return {data == nullptr ? nullptr : data + token * stride + head * width, stride};
  }
  /// A state of `states` [.., H, d, e].
  float* state(const Tensor& states, std::int64_t number, std::int64_t head) const {
    return states.mutable_data_ptr<float>() + (number * heads() + head) * state_size();
  }
  /// Chunk `number` of a span and head.
  DeltaChunk chunk(const DeltaPlan& plan, std::size_t span, std::int64_t number, std::int64_t head) const {
    const std::int64_t first = number * attention_block, token = plan.spans[span].begin + first,
                       key_head = head / (heads() / key_heads());
    const float* before = nullptr;
    if (number > 0)
      before = state(between_PHde, plan.first_state[span] + number - 1, head);
    else if (state_SHde.defined())
      before = state(state_SHde, static_cast<std::int64_t>(span), head);
    return {.count = std::min(attention_block, plan.spans[span].length - first),
            .width = width(),
            .value_width = value_width(),
            .q = rows(data(q_NKd), k_NKd, token, key_head),
            .k = rows(data(k_NKd), k_NKd, token, key_head),
            .v = rows(data(v_NHe), v_NHe, token, head),
            .decay = rows(data(decay_NH), decay_NH, token, head),
            .beta = rows(data(beta_NH), beta_NH, token, head),
            .state = before};
  }
};

template <class = void>
struct DeltaScan : torch::autograd::Function<DeltaScan<>> {
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx,
                                                const std::optional<Tensor>& q_NKd, const Tensor& k_NKd,
                                                const Tensor& v_NHe, const Tensor& decay_NH, const Tensor& beta_NH,
                                                const std::optional<Tensor>& state_SHde, const DeltaPlan& plan);
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads);
};

template <class Unused>
torch::autograd::variable_list DeltaScan<Unused>::forward(
    torch::autograd::AutogradContext* ctx, const std::optional<Tensor>& q_NKd, const Tensor& k_NKd, const Tensor& v_NHe,
    const Tensor& decay_NH, const Tensor& beta_NH, const std::optional<Tensor>& state_SHde, const DeltaPlan& plan) {
  const auto held = [](const std::optional<Tensor>& x) { return x ? x->contiguous() : Tensor(); };
  DeltaNumbers in{held(q_NKd), held(k_NKd), held(v_NHe), held(decay_NH), held(beta_NH), held(state_SHde), {}};
  const std::int64_t H = in.heads(), d = in.width(), e = in.value_width();
  const auto num_spans = static_cast<std::int64_t>(plan.spans.size());
  in.between_PHde = at::empty({plan.num_states, H, d, e}, k_NKd.options());
  const Tensor after_SHde = at::empty({num_spans, H, d, e}, k_NKd.options());
  const Tensor out_THe = q_NKd ? at::empty({plan.num_tokens, H, e}, k_NKd.options()) : Tensor();
  float* out = q_NKd ? out_THe.mutable_data_ptr<float>() : nullptr;
  parallel_tasks(num_spans * H, [&](std::int64_t task) {
    const auto span = static_cast<std::size_t>(task / H);
    const std::int64_t head = task % H, chunks = DeltaPlan::num_chunks(plan.spans[span]);
    float* scratch = thread_scratch(delta_forward_scratch(d, e));
    for (std::int64_t n = 0; n < chunks; ++n) {
      const DeltaChunk chunk = in.chunk(plan, span, n, head);
      float* after = n + 1 < chunks ? in.state(in.between_PHde, plan.first_state[span] + n, head)
                                    : in.state(after_SHde, task / H, head);
      const auto to = DeltaNumbers::rows(out, v_NHe, plan.first_out[span] + n * attention_block, head);
      run_with_products([&]<class Products>() { delta_chunk_forward<Products>(chunk, scratch, to, after); });
    }
  });
  ctx->save_for_backward({in.q_NKd, in.k_NKd, in.v_NHe, in.decay_NH, in.beta_NH, in.state_SHde, in.between_PHde});
  keep(ctx, "plan", plan);
  if (!q_NKd) return {after_SHde};
  return {out_THe, after_SHde};
}

template <class Unused>
torch::autograd::variable_list DeltaScan<Unused>::backward(torch::autograd::AutogradContext* ctx,
                                                           const torch::autograd::variable_list& grads) {
  check(!at::GradMode::is_enabled(), "delta_rule has no second derivatives on the CPU: use float64");
  const auto& plan = *kept<DeltaPlan>(ctx, "plan");
  const auto saved = ctx->get_saved_variables();
  const DeltaNumbers in{saved[0], saved[1], saved[2], saved[3], saved[4], saved[5], saved[6]};
  const std::int64_t H = in.heads(), K = in.key_heads(), d = in.width(), e = in.value_width();
  const auto zeros = [](const Tensor& x) { return x.defined() ? at::zeros_like(x) : Tensor(); };
  const Tensor grad_q = zeros(in.q_NKd), grad_k = zeros(in.k_NKd), grad_v = zeros(in.v_NHe),
               grad_decay = zeros(in.decay_NH), grad_beta = zeros(in.beta_NH), grad_out = grads[0].contiguous(),
               grad_state = grads.back().clone(at::MemoryFormat::Contiguous);
  const auto data = [](const Tensor& x) { return x.defined() ? x.mutable_data_ptr<float>() : nullptr; };
  const auto go = [&](std::size_t span, std::int64_t key_head) {
    float* scratch = thread_scratch(delta_backward_scratch(d, e));
    for (std::int64_t head = key_head * (H / K); head < (key_head + 1) * (H / K); ++head)
      for (std::int64_t n = DeltaPlan::num_chunks(plan.spans[span]) - 1; n >= 0; --n) {
        const std::int64_t first = n * attention_block, token = plan.spans[span].begin + first;
        const DeltaChunk chunk = in.chunk(plan, span, n, head);
        const DeltaChunkGrads to{.q = DeltaNumbers::rows(data(grad_q), grad_k, token, key_head),
                                 .k = DeltaNumbers::rows(data(grad_k), grad_k, token, key_head),
                                 .v = DeltaNumbers::rows(data(grad_v), grad_v, token, head),
                                 .decay = DeltaNumbers::rows(data(grad_decay), grad_decay, token, head),
                                 .beta = DeltaNumbers::rows(data(grad_beta), grad_beta, token, head)};
        const auto from = DeltaNumbers::rows(in.q_NKd.defined() ? DeltaNumbers::data(grad_out) : nullptr, grad_v,
                                             plan.first_out[span] + first, head);
        float* state = in.state(grad_state, static_cast<std::int64_t>(span), head);
        run_with_products([&]<class Products>() { delta_chunk_backward<Products>(chunk, from, scratch, state, to); });
      }
  };
  const auto num_spans = static_cast<std::int64_t>(plan.spans.size());
  if (plan.is_apart())
    parallel_tasks(num_spans * K, [&](std::int64_t task) { go(static_cast<std::size_t>(task / K), task % K); });
  else
    parallel_tasks(K, [&](std::int64_t key_head) {
      for (std::size_t span = 0; span < plan.spans.size(); ++span) go(span, key_head);
    });
  return {grad_q, grad_k, grad_v, grad_decay, grad_beta, in.state_SHde.defined() ? grad_state : Tensor(), {}};
}
KTO_COMPILED_ONCE(struct DeltaScan<>);

inline bool takes_delta_kernel(const Tensor& k_NKd, const Tensor& v_NHe) {
  return k_NKd.is_cpu() && k_NKd.scalar_type() == at::kFloat && k_NKd.size(2) % 16 == 0 && v_NHe.size(2) % 16 == 0;
}

}  // namespace kto::detail
