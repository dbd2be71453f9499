// SPDX-License-Identifier: Apache-2.0
// Log-probs of the scored tokens without ever holding their [C, V] logits: the head is applied to a few tokens at a
// time, and once more in the backward pass, where the gradient of each chunk is made in place of its logits:
//   logp_c = z_ct - logsumexp_v z_cv,   d logp_c / d z_cv = 1[v = t] - softmax(z)_cv
// Peak memory is two chunks instead of several times C x V. The oracle is full_token_scores.
#pragma once

#include <algorithm>

#include "kto/logprob/token_scores.hpp"

namespace kto {

// Shapes: C scored tokens, V vocabulary, D width; c one chunk of C.

struct ChunkedOptions {
  std::int64_t max_elements = std::int64_t{1} << 23;  ///< logits in one chunk: 32 MiB in float32
};

namespace detail {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

/// Head::scale and Head::soft_cap on raw products, in place.
inline Tensor& shape_logits_(Tensor& logits_cV, double scale, double soft_cap) {
  if (scale != 1) logits_cV.mul_(scale);
  if (soft_cap > 0) logits_cV.div_(soft_cap).tanh_().mul_(soft_cap);
  return logits_cV;
}

struct ChunkedTokenScores : torch::autograd::Function<ChunkedTokenScores> {
  static Tensor chunk_logits(const Tensor& hidden_cD, const Tensor& weight_VD, const Tensor& bias_V, double scale,
                             double soft_cap) {
    Tensor logits_cV = at::linear(hidden_cD, weight_VD, bias_V);
    logits_cV = logits_cV.to(wide(logits_cV));
    return shape_logits_(logits_cV, scale, soft_cap);
  }

  static variable_list forward(AutogradContext* ctx, const Tensor& hidden_CD, const Tensor& weight_VD,
                               const std::optional<Tensor>& bias, const Tensor& target_C, double scale, double soft_cap,
                               bool statistics, std::int64_t chunk) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const Tensor bias_V = bias.value_or(Tensor());
    const Tensor weight_narrow = weight_VD.to(hidden_CD.scalar_type());
    const Tensor bias_narrow = bias ? bias->to(hidden_CD.scalar_type()) : bias_V;
    const auto options = hidden_CD.options().dtype(wide(hidden_CD));
    const std::int64_t num_tokens = hidden_CD.size(0);
    const Tensor logp_C = at::empty({num_tokens}, options);
    const Tensor log_sum_C = at::empty({num_tokens}, options);
    const Tensor entropy_C = statistics ? at::empty({num_tokens}, options) : Tensor();
    const Tensor mean_logit_C = statistics ? at::empty({num_tokens}, options) : Tensor();
    for (std::int64_t begin = 0; begin < num_tokens; begin += chunk) {
      const std::int64_t size = std::min(chunk, num_tokens - begin);
      const auto slice = [&](const Tensor& tensor) { return tensor.narrow(0, begin, size); };
      Tensor logits_cV = chunk_logits(slice(hidden_CD), weight_narrow, bias_narrow, scale, soft_cap);
      const Tensor log_sum_c = at::logsumexp(logits_cV, -1);
      slice(log_sum_C).copy_(log_sum_c);
      slice(logp_C).copy_(logits_cV.gather(-1, slice(target_C).unsqueeze(-1)).squeeze(-1).sub_(log_sum_c));
      if (statistics) {
        slice(mean_logit_C).copy_(logits_cV.mean(-1));
        const Tensor softmax_cV = (logits_cV - log_sum_c.unsqueeze(-1)).exp_();
        slice(entropy_C).copy_(log_sum_c - softmax_cV.mul_(logits_cV).sum(-1));
      }
    }
    ctx->save_for_backward({hidden_CD, weight_VD, bias_V, target_C, log_sum_C});
    ctx->saved_data["scale"] = scale;
    ctx->saved_data["soft_cap"] = soft_cap;
    ctx->saved_data["chunk"] = chunk;
    if (!statistics) return {logp_C};
    ctx->mark_non_differentiable({entropy_C, mean_logit_C});
    return {logp_C, entropy_C, mean_logit_C};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &hidden_CD = saved[0], &weight_VD = saved[1], &bias_V = saved[2], &target_C = saved[3],
                 &log_sum_C = saved[4];
    const double scale = ctx->saved_data["scale"].toDouble();
    const double soft_cap = ctx->saved_data["soft_cap"].toDouble();
    const std::int64_t chunk = ctx->saved_data["chunk"].toInt();
    const Tensor weight_narrow = weight_VD.to(hidden_CD.scalar_type());
    const Tensor bias_narrow = bias_V.defined() ? bias_V.to(hidden_CD.scalar_type()) : bias_V;
    const Tensor grad_hidden_CD = ctx->needs_input_grad(0) ? at::empty_like(hidden_CD) : Tensor();
    Tensor grad_weight_VD = ctx->needs_input_grad(1) ? at::zeros_like(weight_VD) : Tensor();
    Tensor grad_bias_V = bias_V.defined() && ctx->needs_input_grad(2) ? at::zeros_like(bias_V) : Tensor();
    const std::int64_t num_tokens = hidden_CD.size(0);
    for (std::int64_t begin = 0; begin < num_tokens; begin += chunk) {
      const std::int64_t size = std::min(chunk, num_tokens - begin);
      const auto slice = [&](const Tensor& tensor) { return tensor.narrow(0, begin, size); };
      Tensor grad_cV = chunk_logits(slice(hidden_CD), weight_narrow, bias_narrow, scale, soft_cap);
      const Tensor cap_slope_cV = soft_cap > 0 ? 1 - (grad_cV / soft_cap).square_() : Tensor();
      const Tensor grad_c = slice(grads[0]).to(grad_cV.scalar_type());
      grad_cV.sub_(slice(log_sum_C).unsqueeze(-1)).exp_().mul_(-grad_c.unsqueeze(-1));
      grad_cV.scatter_add_(-1, slice(target_C).unsqueeze(-1), grad_c.unsqueeze(-1));
      if (soft_cap > 0) grad_cV.mul_(cap_slope_cV);
      if (scale != 1) grad_cV.mul_(scale);
      if (grad_bias_V.defined()) grad_bias_V.add_(grad_cV.sum(0));
      const Tensor grad_narrow_cV = grad_cV.to(hidden_CD.scalar_type());
      if (grad_hidden_CD.defined()) slice(grad_hidden_CD).copy_(at::mm(grad_narrow_cV, weight_narrow));
      if (grad_weight_VD.defined()) {
        if (grad_weight_VD.scalar_type() == hidden_CD.scalar_type())
          grad_weight_VD.addmm_(grad_narrow_cV.t(), slice(hidden_CD));
        else
          grad_weight_VD.add_(at::mm(grad_narrow_cV.t(), slice(hidden_CD)));
      }
    }
    return {grad_hidden_CD, grad_weight_VD, grad_bias_V, {}, {}, {}, {}, {}};
  }
};

}  // namespace detail

/// Scores of the tokens `target_C` (int64) from the states hidden_CD that predict them; `statistics` asks for entropy
/// and mean logit. Gradients flow to hidden_CD and to the head's weight and bias.
inline TokenScores chunked_token_scores(const Tensor& hidden_CD, const Head& head, const Tensor& target_C,
                                        bool statistics, const ChunkedOptions& options = {}) {
  const std::int64_t chunk = std::max<std::int64_t>(1, options.max_elements / head.weight_VD.size(0));
  const auto out = detail::ChunkedTokenScores::apply(hidden_CD, head.weight_VD, head.bias_V, target_C, head.scale,
                                                     head.soft_cap, statistics, chunk);
  if (!statistics) return {.logp_C = out[0], .entropy_C = {}, .mean_logit_C = {}};
  return {.logp_C = out[0], .entropy_C = out[1], .mean_logit_C = out[2]};
}

}  // namespace kto
