// SPDX-License-Identifier: Apache-2.0
// Log-probs of the scored tokens without ever holding their [C, V] logits: the head is applied tile by tile (a block of
// tokens, a slice of the vocabulary) with a running logsumexp, and once more in the backward pass, where the gradient
// of each tile is made in place of its logits:
//   logp_c = z_ct - logsumexp_v z_cv,   d logp_c / d z_cv = 1[v = t] - softmax(z)_cv
// Peak memory is a few tiles instead of several times C x V, and each row of the head's gradient is written once.
// The oracle is full_token_scores.
#pragma once

#include <algorithm>

#include "kto/logprob/token_scores.hpp"
#include "kto/model/weight_grad.hpp"

namespace kto {

// Shapes: C scored tokens, V vocabulary, D width; c a block of C, v a slice of V.

struct ChunkedOptions {
  std::int64_t block_tokens = 4096;                    ///< tokens in one tile at most
  std::int64_t tile_elements = std::int64_t{1} << 21;  ///< logits in one tile: 8 MiB in float32
};

namespace detail {

struct Tiling {
  std::int64_t num_tokens, vocabulary, block, slice;

  /// Calls visit(begin, size) for each block of tokens.
  template <class Visit>
  void blocks(const Visit& visit) const {
    for (std::int64_t begin = 0; begin < num_tokens; begin += block) visit(begin, std::min(block, num_tokens - begin));
  }
  /// Calls visit(begin, size) for each slice of the vocabulary.
  template <class Visit>
  void slices(const Visit& visit) const {
    for (std::int64_t begin = 0; begin < vocabulary; begin += slice) visit(begin, std::min(slice, vocabulary - begin));
  }
};

inline Tiling make_tiling(std::int64_t num_tokens, std::int64_t vocabulary, const ChunkedOptions& options) {
  const std::int64_t block = std::clamp<std::int64_t>(num_tokens, 1, std::max<std::int64_t>(1, options.block_tokens));
  return {num_tokens, vocabulary, block, std::clamp<std::int64_t>(options.tile_elements / block, 1, vocabulary)};
}

/// The head of some tokens, in the dtype of their states; logits come in float32 or wider.
struct TileHead {
  Tensor weight_VD, bias_V;
  double scale, soft_cap;

  TileHead(const Tensor& hidden_CD, const Tensor& weight, const Tensor& bias, double scale_in, double soft_cap_in)
      : weight_VD(CastOnce::cast(weight, hidden_CD.scalar_type())),
        bias_V(bias.defined() ? CastOnce::cast(bias, hidden_CD.scalar_type()) : bias),
        scale(scale_in),
        soft_cap(soft_cap_in) {}

  Tensor logits(const Tensor& hidden_cD, std::int64_t begin, std::int64_t size) const {
    Tensor logits_cv = matmul_transposed(hidden_cD, weight_VD.narrow(0, begin, size),
                                         bias_V.defined() ? bias_V.narrow(0, begin, size) : bias_V);
    logits_cv = logits_cv.to(wide(logits_cv));
    if (scale != 1) logits_cv.mul_(scale);
    if (soft_cap > 0) logits_cv.div_(soft_cap).tanh_().mul_(soft_cap);
    return logits_cv;
  }
};

/// Where the targets of a block lie in a vocabulary slice: column (0 where outside) and whether inside.
struct TargetsInSlice {
  Tensor column_c1, inside_c;
  TargetsInSlice(const Tensor& target_c, std::int64_t begin, std::int64_t size) {
    const Tensor column_c = target_c - begin;
    inside_c = (column_c >= 0).logical_and_(column_c < size);
    column_c1 = (column_c * inside_c).unsqueeze(-1);
  }
};

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct ChunkedTokenScores : torch::autograd::Function<ChunkedTokenScores> {
  static variable_list forward(AutogradContext* ctx, const Tensor& hidden_CD, const Tensor& weight_VD,
                               const std::optional<Tensor>& bias_V, const Tensor& target_C, double scale,
                               double soft_cap, bool statistics, std::int64_t block, std::int64_t slice) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const Tiling tiling{hidden_CD.size(0), weight_VD.size(0), block, slice};
    const TileHead head(hidden_CD, weight_VD, bias_V.value_or(Tensor()), scale, soft_cap);
    const auto options = hidden_CD.options().dtype(wide(hidden_CD));
    const auto per_token = [&](bool wanted) { return wanted ? at::zeros({tiling.num_tokens}, options) : Tensor(); };
    const Tensor logp_C = per_token(true), log_sum_C = per_token(true), entropy_C = per_token(statistics),
                 mean_logit_C = per_token(statistics);
    tiling.blocks([&](std::int64_t begin, std::int64_t size) {
      const auto block_of = [&](const Tensor& tensor) { return tensor.narrow(0, begin, size); };
      const Tensor hidden_cD = block_of(hidden_CD), target_c = block_of(target_C), target_logit_c = block_of(logp_C);
      // running maximum m, sum of exp(z - m), and sum of exp(z - m) z, over the slices so far
      Tensor max_c, exp_sum_c, exp_logit_sum_c;
      tiling.slices([&](std::int64_t first, std::int64_t width) {
        const Tensor logits_cv = head.logits(hidden_cD, first, width);
        const TargetsInSlice at(target_c, first, width);
        target_logit_c.add_(logits_cv.gather(-1, at.column_c1).squeeze(-1) * at.inside_c);
        if (statistics) block_of(mean_logit_C).add_(logits_cv.sum(-1));
        const Tensor slice_max_c = logits_cv.amax(-1);
        const Tensor new_max_c = max_c.defined() ? at::maximum(max_c, slice_max_c) : slice_max_c;
        const Tensor exp_cv = (logits_cv - new_max_c.unsqueeze(-1)).exp_();
        const Tensor shrink_c = max_c.defined() ? (max_c - new_max_c).exp_() : Tensor();
        const auto accumulate = [&](Tensor& total_c, const Tensor& sum_c) {
          total_c = total_c.defined() ? total_c.mul_(shrink_c).add_(sum_c) : sum_c;
        };
        accumulate(exp_sum_c, exp_cv.sum(-1));
        if (statistics) accumulate(exp_logit_sum_c, (logits_cv * exp_cv).sum(-1));
        max_c = new_max_c;
      });
      const Tensor log_sum_c = exp_sum_c.log().add_(max_c);
      block_of(log_sum_C).copy_(log_sum_c);
      target_logit_c.sub_(log_sum_c);
      if (statistics) {
        block_of(entropy_C).copy_(log_sum_c - exp_logit_sum_c / exp_sum_c);
        block_of(mean_logit_C).div_(static_cast<double>(tiling.vocabulary));
      }
    });
    ctx->save_for_backward({hidden_CD, weight_VD, bias_V.value_or(Tensor()), target_C, log_sum_C});
    ctx->saved_data["scale"] = scale;
    ctx->saved_data["soft_cap"] = soft_cap;
    ctx->saved_data["block"] = block;
    ctx->saved_data["slice"] = slice;
    if (!statistics) return {logp_C};
    ctx->mark_non_differentiable({entropy_C, mean_logit_C});
    return {logp_C, entropy_C, mean_logit_C};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &hidden_CD = saved[0], &weight_VD = saved[1], &bias_V = saved[2], &target_C = saved[3],
                 &log_sum_C = saved[4];
    const Tiling tiling{hidden_CD.size(0), weight_VD.size(0), ctx->saved_data["block"].toInt(),
                        ctx->saved_data["slice"].toInt()};
    const TileHead head(hidden_CD, weight_VD, bias_V, ctx->saved_data["scale"].toDouble(),
                        ctx->saved_data["soft_cap"].toDouble());
    const bool one_block = tiling.num_tokens > 0 && tiling.num_tokens <= tiling.block;
    const auto grad_like = [&](const Tensor& tensor) {
      return one_block ? at::empty_like(tensor) : at::zeros_like(tensor);
    };
    const Tensor grad_hidden_CD =
        ctx->needs_input_grad(0) ? at::zeros_like(hidden_CD, hidden_CD.options().dtype(wide(hidden_CD))) : Tensor();
    const bool in_place = InPlaceGradients::take(weight_VD);
    const Tensor grad_weight_VD = ctx->needs_input_grad(1) && !in_place ? grad_like(weight_VD) : Tensor();
    const Tensor grad_bias_V = bias_V.defined() && ctx->needs_input_grad(2) ? grad_like(bias_V) : Tensor();
    const auto put = [&](const Tensor& total, std::int64_t first, const Tensor& part) {
      const Tensor target = total.narrow(0, first, part.size(0));
      if (one_block)
        target.copy_(part);
      else
        target.add_(part);
    };
    tiling.blocks([&](std::int64_t begin, std::int64_t size) {
      const auto block_of = [&](const Tensor& tensor) { return tensor.narrow(0, begin, size); };
      const Tensor hidden_cD = block_of(hidden_CD), target_c = block_of(target_C);
      const Tensor grad_c1 = block_of(grads[0]).to(wide(hidden_CD)).unsqueeze(-1);
      tiling.slices([&](std::int64_t first, std::int64_t width) {
        const Tensor grad_cv = head.logits(hidden_cD, first, width);
        const Tensor slope_cv = head.soft_cap > 0 ? 1 - (grad_cv / head.soft_cap).square_() : Tensor();
        const TargetsInSlice at(target_c, first, width);
        grad_cv.sub_(block_of(log_sum_C).unsqueeze(-1)).exp_().mul_(-grad_c1);
        grad_cv.scatter_add_(-1, at.column_c1, grad_c1 * at.inside_c.unsqueeze(-1));
        if (slope_cv.defined()) grad_cv.mul_(slope_cv);
        if (head.scale != 1) grad_cv.mul_(head.scale);
        if (grad_bias_V.defined()) put(grad_bias_V, first, grad_cv.sum(0));
        const Tensor narrow_cv = grad_cv.to(hidden_CD.scalar_type());
        if (grad_hidden_CD.defined())
          block_of(grad_hidden_CD).add_(matmul_transposed(narrow_cv, head.weight_VD.narrow(0, first, width).t()));
        if (grad_weight_VD.defined()) put(grad_weight_VD, first, matmul_transposed(narrow_cv.t(), hidden_cD.t()));
        if (ctx->needs_input_grad(1) && in_place)
          add_product(weight_VD.grad().narrow(0, first, width), narrow_cv.t(), hidden_cD);
      });
    });
    return {grad_hidden_CD.defined() ? grad_hidden_CD.to(hidden_CD.scalar_type()) : grad_hidden_CD,
            grad_weight_VD,
            grad_bias_V,
            {},
            {},
            {},
            {},
            {},
            {}};
  }
};

}  // namespace detail

/// Scores of the tokens `target_C` (int64) from the states hidden_CD that predict them; `statistics` asks for entropy
/// and mean logit. Gradients flow to hidden_CD and to the head's weight and bias.
inline TokenScores chunked_token_scores(const Tensor& hidden_CD, const Head& head, const Tensor& target_C,
                                        bool statistics, const ChunkedOptions& options = {}) {
  const auto tiling = detail::make_tiling(hidden_CD.size(0), head.weight_VD.size(0), options);
  const auto out = detail::ChunkedTokenScores::apply(hidden_CD, head.weight_VD, head.bias_V, target_C, head.scale,
                                                     head.soft_cap, statistics, tiling.block, tiling.slice);
  if (!statistics) return {.logp_C = out[0], .entropy_C = {}, .mean_logit_C = {}};
  return {.logp_C = out[0], .entropy_C = out[1], .mean_logit_C = out[2]};
}

}  // namespace kto
