// SPDX-License-Identifier: Apache-2.0
// Log-probs of the scored tokens without ever holding their [C, V] logits: the head is applied tile by tile (a block of
// tokens, a slice of the vocabulary) with a running logsumexp, and again in the backward pass, where each tile of
// logits is overwritten by its gradient:
//   logp_c = z_ct - logsumexp_v z_cv,   d logp_c / d z_cv = 1[v = t] - softmax(z)_cv
// Peak memory is a few tiles instead of several times C x V, and each row of the head's gradient is written once.
// The oracle is full_token_scores.
#pragma once

#include <algorithm>

#include "kto/logprob/float_logits.hpp"
#include "kto/logprob/tile.hpp"
#include "kto/nn/weight_grad.hpp"

namespace kto {

// Shapes: C scored tokens, V vocabulary, D width; c a block of C, v a slice of V.

struct ChunkedOptions {
  std::int64_t block_tokens = 4096;  ///< at most this many tokens per tile
  /// Logits per tile, in float32; when absent, the head's, or else on the CPU 8 MiB, which stay in a cache, and on other
  /// devices 256 MiB, or starting kernels would take longer than running them.
  std::optional<std::int64_t> tile_elements = std::nullopt;
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

inline Tiling make_tiling(std::int64_t num_tokens, const Head& head, const ChunkedOptions& options) {
  const std::int64_t vocabulary = head.weight_VD.size(0);
  const auto wanted = options.tile_elements ? options.tile_elements : head.tile_elements;
  const std::int64_t elements = wanted.value_or(std::int64_t{1} << (head.weight_VD.is_cpu() ? 21 : 26));
  const std::int64_t block = std::clamp<std::int64_t>(num_tokens, 1, std::max<std::int64_t>(1, options.block_tokens));
  return {num_tokens, vocabulary, block, std::clamp<std::int64_t>(elements / block, 1, vocabulary)};
}

/// The head for a set of tokens, in the dtype of their states; logits are float32 or wider. If the dtype is narrower
/// and the product rounds the logits (by up to 1/16 at a logit of 20), the targets' logits, which matter most for
/// log-probs and log-ratios, are computed again in float32.
struct TileHead {
  Tensor weight_VD, bias_V;
  at::ScalarType type;
  bool keeps_sums;  ///< float32 logits of narrower states, in both passes, whatever the weight is cast to
  double scale, soft_cap;

  TileHead(const WeightUse& use, const Tensor& hidden_CD, const Tensor& weight, const Tensor& bias, double scale_in,
           double soft_cap_in)
      : weight_VD(use.casts ? use.cast(weight, hidden_CD.scalar_type()) : weight.detach()),
        bias_V(bias.defined() ? use.cast(bias, hidden_CD.scalar_type()) : bias),
        type(hidden_CD.scalar_type()),
        keeps_sums(takes_float_logits(hidden_CD, weight_VD)),
        scale(scale_in),
        soft_cap(soft_cap_in) {}

  /// The slice [begin, begin + size) of the weight, in its own type.
  Tensor slice(std::int64_t begin, std::int64_t size) const { return weight_VD.narrow(0, begin, size); }

  /// The targets' exact logits for logits(); undefined if nothing is rounded.
  Tensor exact_targets(const Tensor& hidden_cD, const Tensor& target_c) const {
    if (type == wide(hidden_cD) || keeps_sums) return {};
    const Tensor logit_c = target_logits(hidden_cD, weight_VD, target_c);
    return bias_V.defined() ? logit_c.add_(bias_V.index_select(0, target_c)) : logit_c;
  }

  /// The logits of a block over the slice `weight_vD` (of any type) that starts at `begin`.
  Tensor logits(const Tensor& hidden_cD, const Tensor& target_c, const Tensor& exact_c, const Tensor& weight_vD,
                std::int64_t begin) const {
    const Tensor bias_v = bias_V.defined() ? bias_V.narrow(0, begin, weight_vD.size(0)) : bias_V;
    Tensor logits_cv;
    if (keeps_sums) {
      logits_cv = float_logits(hidden_cD, weight_vD);
      if (bias_v.defined()) logits_cv.add_(bias_v);
    } else {
      logits_cv = matmul_transposed(hidden_cD, weight_vD.to(type), bias_v).to(wide(hidden_cD));
    }
    if (exact_c.defined()) set_targets(logits_cv, exact_c, target_c, begin);
    if (scale != 1) logits_cv.mul_(scale);
    if (soft_cap > 0) logits_cv.div_(soft_cap).tanh_().mul_(soft_cap);
    return logits_cv;
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
    const TileHead head(WeightUse::in_forward(ctx), hidden_CD, weight_VD, bias_V.value_or(Tensor()), scale, soft_cap);
    const auto options = hidden_CD.options().dtype(wide(hidden_CD));
    const auto per_token = [&](bool wanted) { return wanted ? at::zeros({tiling.num_tokens}, options) : Tensor(); };
    const Tensor logp_C = per_token(true), log_sum_C = per_token(true), entropy_C = per_token(statistics),
                 mean_logit_C = per_token(statistics);
    tiling.blocks([&](std::int64_t begin, std::int64_t size) {
      const auto block_of = [&](const Tensor& tensor) { return tensor.narrow(0, begin, size); };
      const Tensor hidden_cD = block_of(hidden_CD), target_c = block_of(target_C);
      const Tensor exact_c = head.exact_targets(hidden_cD, target_c);
      RunningScores scores(size, statistics, options);
      tiling.slices([&](std::int64_t first, std::int64_t width) {
        add_tile(scores, head.logits(hidden_cD, target_c, exact_c, head.slice(first, width), first), target_c, first);
      });
      const Tensor log_sum_c = scores.exp_sum_c.log().add_(scores.max_c);
      block_of(log_sum_C).copy_(log_sum_c);
      block_of(logp_C).copy_(scores.target_logit_c - log_sum_c);
      if (!statistics) return;
      block_of(entropy_C).copy_(log_sum_c - scores.exp_logit_sum_c / scores.exp_sum_c);
      block_of(mean_logit_C).copy_(scores.logit_sum_c / static_cast<double>(tiling.vocabulary));
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
    const WeightUse use = WeightUse::in_backward(ctx);
    const auto saved = ctx->get_saved_variables();
    const Tensor &hidden_CD = saved[0], &weight_VD = saved[1], &bias_V = saved[2], &target_C = saved[3],
                 &log_sum_C = saved[4];
    const Tiling tiling{hidden_CD.size(0), weight_VD.size(0), ctx->saved_data["block"].toInt(),
                        ctx->saved_data["slice"].toInt()};
    const TileHead head(use, hidden_CD, weight_VD, bias_V, ctx->saved_data["scale"].toDouble(),
                        ctx->saved_data["soft_cap"].toDouble());
    const bool one_block = tiling.num_tokens > 0 && tiling.num_tokens <= tiling.block;
    const auto grad_like = [&](const Tensor& tensor) {
      return one_block ? at::empty_like(tensor) : at::zeros_like(tensor);
    };
    const Tensor grad_hidden_CD =
        ctx->needs_input_grad(0) ? at::zeros_like(hidden_CD, hidden_CD.options().dtype(wide(hidden_CD))) : Tensor();
    const bool wanted = ctx->needs_input_grad(1), in_place = wanted && use.adds_gradient_of(weight_VD);
    const auto lock = in_place ? lock_gradient(weight_VD) : std::unique_lock<std::mutex>();
    const bool adds = in_place && weight_VD.grad().defined();
    const Tensor grad_weight_VD = adds ? weight_VD.grad() : wanted ? grad_like(weight_VD.detach()) : Tensor();
    if (in_place) weight_VD.mutable_grad() = grad_weight_VD;
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
      const Tensor grad_c = block_of(grads[0]).to(wide(hidden_CD)), exact_c = head.exact_targets(hidden_cD, target_c);
      tiling.slices([&](std::int64_t first, std::int64_t width) {
        const Tensor weight_vD = head.slice(first, width).to(head.type);
        const Tensor grad_cv = head.logits(hidden_cD, target_c, exact_c, weight_vD, first);
        const Tensor slope_cv = head.soft_cap > 0 ? 1 - (grad_cv / head.soft_cap).square_() : Tensor();
        tile_gradient(grad_cv, block_of(log_sum_C), target_c, grad_c, first);
        if (slope_cv.defined()) grad_cv.mul_(slope_cv);
        if (head.scale != 1) grad_cv.mul_(head.scale);
        if (grad_bias_V.defined()) put(grad_bias_V, first, grad_cv.sum(0));
        const Tensor narrow_cv = grad_cv.to(hidden_CD.scalar_type());
        if (grad_hidden_CD.defined()) block_of(grad_hidden_CD).add_(matmul_transposed(narrow_cv, weight_vD.t()));
        if (adds)
          add_product(grad_weight_VD.narrow(0, first, width), narrow_cv.t(), hidden_cD);
        else if (wanted)
          put(grad_weight_VD, first, matmul_transposed(narrow_cv.t(), hidden_cD.t()));
      });
    });
    return {grad_hidden_CD.defined() ? grad_hidden_CD.to(hidden_CD.scalar_type()) : grad_hidden_CD,
            in_place ? Tensor() : grad_weight_VD,
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

/// Scores the tokens `target_C` (int64) from the states hidden_CD that predict them. With `statistics`, also computes
/// entropy and mean logit. Gradients flow to hidden_CD and to the head's weight and bias.
inline TokenScores chunked_token_scores(const Tensor& hidden_CD, const Head& head, const Tensor& target_C,
                                        bool statistics, const ChunkedOptions& options = {}) {
  auto tiling = detail::make_tiling(hidden_CD.size(0), head, options);
  if (detail::needs_widening(hidden_CD))  // then a slice of the weight is widened at once
    tiling.slice = std::min(tiling.slice, std::max<std::int64_t>(1, detail::widened_elements / hidden_CD.size(1)));
  const auto out = detail::ChunkedTokenScores::apply(hidden_CD, head.weight_VD, head.bias_V, target_C, head.scale,
                                                     head.soft_cap, statistics, tiling.block, tiling.slice);
  if (!statistics) return {.logp_C = out[0], .entropy_C = {}, .mean_logit_C = {}};
  return {.logp_C = out[0], .entropy_C = out[1], .mean_logit_C = out[2]};
}

}  // namespace kto
