// SPDX-License-Identifier: Apache-2.0
// Mixture-of-experts layers: the router's choice, the experts, a shared expert, and what the load-balancing loss of
// Switch Transformers (arXiv:2101.03961, equations 4 to 6) is made of. Padding goes through experts like any token, and
// its weight in that loss is 0.
#pragma once

#include <limits>
#include <utility>
#include <vector>

#include "kto/collate/batch.hpp"
#include "kto/model/modules.hpp"
#include "kto/nn/blocks.hpp"

namespace kto {

// Shapes: N tokens, E experts, K experts of a token, D width, G groups of experts.

/// What the router makes of each token, in float32 or wider.
struct Routes {
  Tensor logits_NE;
  Tensor expert_NK;  ///< int64
  Tensor weight_NK;
};

/// Sums over tokens for the load-balancing loss; add those of all layers.
struct RouterSums {
  Tensor probability_E;  ///< of the softmax over the logits; carries the gradient
  Tensor count_E;        ///< how often each expert was chosen
};

namespace detail {

/// The largest of `scores_NE`, by number of expert, in float32 or wider.
inline Tensor largest_experts(const Tensor& scores_NE, std::int64_t count) {
  return std::get<1>(scores_NE.detach().topk(count, -1));
}

inline Routes normalized_routes(const RouterSpec& spec, Routes routes) {
  if (spec.normalizes) {
    const double least = spec.routing == Routing::sigmoid_groups ? 1e-20 : 0;
    routes.weight_NK = routes.weight_NK / (routes.weight_NK.sum(-1, true) + least);
  }
  if (spec.scale != 1) routes.weight_NK = routes.weight_NK * spec.scale;
  return routes;
}

/// Experts of groups other than the best ones get -infinity.
inline Tensor best_groups(const RouterSpec& spec, const Tensor& scores_NE) {
  if (spec.num_groups == 1) return scores_NE;
  const Tensor scores_NGe = scores_NE.unflatten(-1, {spec.num_groups, -1});
  const Tensor group_NG = std::get<0>(scores_NGe.topk(2, -1)).sum(-1);
  const Tensor is_best_NG =
      at::zeros_like(group_NG, at::kBool).scatter(-1, largest_experts(group_NG, spec.top_groups), true);
  return scores_NGe.masked_fill(is_best_NG.logical_not().unsqueeze(-1), -std::numeric_limits<double>::infinity())
      .flatten(-2);
}

/// The expert with the largest of `open_NE` and its weight, [N, 1] each: a softmax over those near the largest, in
/// relation to the larger of it and the logit's size.
inline std::pair<Tensor, Tensor> nearest_mix(const Tensor& logits_NE, const Tensor& open_NE, double jitter) {
  const Tensor fixed_NE = logits_NE.detach();
  const auto [largest_N1, expert_N1] = open_NE.detach().max(-1, true);
  const Tensor far_NE = (largest_N1 - fixed_NE) / at::maximum(fixed_NE.abs(), largest_N1) > 2 * jitter;
  const Tensor mix_NE = open_NE.masked_fill(far_NE, -std::numeric_limits<double>::infinity()).softmax(-1);
  return {expert_N1, mix_NE.gather(-1, expert_N1)};
}

}  // namespace detail

/// The experts of each token and their weights, as the RouterSpec says.
inline Routes route(const RouterSpec& spec, const Router& router, std::int64_t per_token, const Tensor& x_ND) {
  const auto bias = router.bias_E.defined() ? std::optional(router.bias_E) : std::nullopt;
  Routes out{affine(x_ND.to(wide_type(x_ND.scalar_type())), router.weight_ED, bias), {}, {}};
  switch (spec.routing) {
    case Routing::softmax_last:
      out.expert_NK = detail::largest_experts(out.logits_NE, per_token);
      out.weight_NK = out.logits_NE.gather(-1, out.expert_NK).softmax(-1);
      return out;
    case Routing::sparse_mixer: {
      const auto [first_N1, first_weight_N1] = detail::nearest_mix(out.logits_NE, out.logits_NE, spec.jitter);
      const Tensor rest_NE = out.logits_NE.scatter(-1, first_N1, -std::numeric_limits<double>::infinity());
      const auto [second_N1, second_weight_N1] = detail::nearest_mix(out.logits_NE, rest_NE, spec.jitter);
      out.expert_NK = at::cat({first_N1, second_N1}, -1);
      out.weight_NK = at::cat({first_weight_N1, second_weight_N1}, -1);
      return out;
    }
    case Routing::sigmoid_groups: {
      const Tensor scores_NE = out.logits_NE.sigmoid();
      const Tensor choice_NE = scores_NE.detach() + router.correction_E;
      out.expert_NK = detail::largest_experts(detail::best_groups(spec, choice_NE), per_token);
      out.weight_NK = scores_NE.gather(-1, out.expert_NK);
      return detail::normalized_routes(spec, std::move(out));
    }
    case Routing::softmax_first:
      break;
  }
  const Tensor scores_NE = out.logits_NE.softmax(-1);
  out.expert_NK = detail::largest_experts(scores_NE, per_token);
  out.weight_NK = scores_NE.gather(-1, out.expert_NK);
  return detail::normalized_routes(spec, std::move(out));
}

/// The sums over tokens that count token_weight_N times each.
inline RouterSums router_sums(const ExpertsSpec& spec, const Routes& routes, const Tensor& token_weight_N) {
  const Tensor probability_NE = routes.logits_NE.softmax(-1),
               weight_N = token_weight_N.to(probability_NE.scalar_type());
  const Tensor expert_NK = detail::largest_experts(probability_NE, spec.per_token);
  const Tensor count_E = at::zeros({spec.num_experts}, probability_NE.options().requires_grad(false));
  return {at::mv(probability_NE.t(), weight_N),
          count_E.index_add(0, expert_NK.flatten(), weight_N.repeat_interleave(spec.per_token))};
}

/// How often each token of a batch counts in the load-balancing loss [N]: padding never, a prompt that completions
/// share once for each of them.
inline Tensor token_weights(const Sequences& sequences) {
  std::vector<float> weights(static_cast<std::size_t>(sequences.ids_N.size(0)));
  const auto count = [&](std::int64_t begin, std::int64_t length) {
    for (std::int64_t t = begin; t < begin + length; ++t) weights[static_cast<std::size_t>(t)] += 1;
  };
  for (const Segment& segment : sequences.segments) count(segment.prefix_begin, segment.prefix_length);
  for (std::size_t i = 0; i < sequences.segments.size(); ++i) {
    const Segment& segment = sequences.segments[i];
    if (segment.length > 0 && weights[static_cast<std::size_t>(segment.begin)] == 0)
      count(segment.begin, sequences.lengths.empty() ? segment.length : sequences.lengths[i]);
  }
  return to_device(weights, sequences.ids_N.device());
}

/// Collects the load-balancing loss of a pass: 1 per expert of a token if all are used alike, and more otherwise.
class LoadBalance {
 public:
  void add(const RouterSums& sums) {
    ++num_layers_;
    sums_ = sums_.count_E.defined() ? RouterSums{sums_.probability_E + sums.probability_E, sums_.count_E + sums.count_E}
                                    : sums;
  }
  /// Undefined if no layer has experts.
  Tensor loss(const Tensor& token_weight_N) const {
    if (num_layers_ == 0) return {};
    const Tensor num_rows = token_weight_N.sum().to(sums_.count_E.scalar_type()) * num_layers_;
    return sums_.count_E.size(0) * ((sums_.count_E / num_rows) * (sums_.probability_E / num_rows)).sum();
  }

 private:
  RouterSums sums_;
  std::int64_t num_layers_ = 0;
};

/// The output [N, D] of a layer's experts for x_ND, in x's type. With `sums`, and each token's weight in them, also
/// gives the layer's.
inline Tensor experts_output(const LayerSpec& layer_spec, const DecoderLayer& layer, const Tensor& x_ND,
                             const Tensor& token_weight_N = {}, RouterSums* sums = nullptr) {
  const ExpertsSpec& spec = *layer_spec.experts;
  const Routes routes = route(spec.router, layer.router, spec.per_token, x_ND);
  if (sums != nullptr) *sums = router_sums(spec, routes, token_weight_N);
  Tensor out_ND = apply_experts(spec.gate, layer.experts, x_ND, routes.expert_NK, routes.weight_NK);
  if (spec.has_shared) {
    Tensor shared_ND =
        gated_down(layer_spec.mlp.activation, {layer.gate_proj(x_ND), layer.up_proj(x_ND)}, layer.down_proj);
    if (spec.weighs_shared) shared_ND = at::sigmoid(layer.shared_weight(x_ND)) * shared_ND;
    out_ND = out_ND + shared_ND;
  }
  return out_ND.to(x_ND.scalar_type());
}

}  // namespace kto
