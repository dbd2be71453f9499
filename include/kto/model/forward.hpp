// SPDX-License-Identifier: Apache-2.0
// The forward pass of one layer, as its LayerSpec says.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "kto/collate/batch.hpp"
#include "kto/model/experts.hpp"
#include "kto/model/latent.hpp"
#include "kto/model/normalize.hpp"
#include "kto/nn/attention.hpp"
#include "kto/nn/rotate.hpp"

namespace kto {

// Shapes: N tokens of a batch in one row, D width, H heads, K key/value heads, d head dimension, M intermediate width.

/// What all layers of a decoder share in one forward pass.
struct LayerContext {
  at::ScalarType compute;
  std::vector<RopeTables> ropes;
  std::vector<Segment> segments;
  Tensor position_N;
  Tensor token_weight_N = {};  ///< in the load-balancing loss; undefined where that is not wanted
};

namespace detail {

/// What a pass has of one layer.
struct LayerPass {
  const LayerContext& context;
  const LayerSpec& spec;
  const DecoderLayer& layer;
  const KeysValues& prefix;
  KeysValues* kept;
  RouterSums* sums = nullptr;
};

/// Queries, keys and values by head, from the output of the projections.
inline HeadsOf split_heads(const AttentionSpec& spec, const std::vector<Tensor>& projected) {
  const std::int64_t H = spec.num_heads, K = spec.num_kv_heads, d = spec.head_dim;
  const auto heads = [&](const Tensor& x) { return x.unflatten(-1, {-1, d}); };
  if (spec.layout == QkvLayout::separate) return {heads(projected[0]), heads(projected[1]), heads(projected[2])};
  const Tensor all = heads(projected[0]);
  if (spec.layout == QkvLayout::stacked) {
    auto parts = all.split_with_sizes({H, K, K}, -2);
    return {std::move(parts[0]), std::move(parts[1]), std::move(parts[2])};
  }
  auto parts = all.unflatten(-2, {K, H / K + 2}).split_with_sizes({H / K, 1, 1}, -2);
  return {parts[0].flatten(-3, -2), parts[1].squeeze(-2), parts[2].squeeze(-2)};
}

inline Tensor clipped(const AttentionSpec& spec, const Tensor& x) {
  return spec.clip_qkv > 0 ? x.clamp(-spec.clip_qkv, spec.clip_qkv) : x;
}

/// Queries or keys with norm and rotary positions.
inline Tensor positioned(const LayerPass& pass, const Tensor& x_NHd, const Norm& norm) {
  const AttentionSpec& spec = pass.spec.attention;
  const at::ScalarType compute = pass.context.compute;
  const auto normed = [&](const Tensor& x, at::ScalarType type) {
    const QkNormSpec& norms = *spec.qk_norm;
    if (norms.over_all_heads) return normalized(norms.norm, norm, x.flatten(-2), type).view_as(x);
    return normalized(norms.norm, norm, x, type);
  };
  const bool before = spec.qk_norm && !spec.qk_norm->after_rope, after = spec.qk_norm && spec.qk_norm->after_rope;
  Tensor out = clipped(spec, before ? normed(x_NHd, wide_type(compute)) : x_NHd);
  if (spec.rope) out = apply_rope(out, pass.context.ropes[*spec.rope], compute);
  return (after ? normed(out, compute) : out).to(compute);
}

/// The queries as QueryGrowth says, with factors in float32 as in transformers.
inline Tensor grown(const QueryGrowth& growth, const Tensor& q_NHd, const Tensor& position_N) {
  const Tensor periods_N = (position_N.to(at::kFloat) / growth.length).floor();
  const Tensor factor_N = 1 + growth.beta * (1 + periods_N).log();
  return q_NHd * factor_N.to(q_NHd.scalar_type()).unsqueeze(-1).unsqueeze(-1);
}

/// Queries, keys and values as the attention takes them.
inline HeadsOf positioned_heads(const LayerPass& pass, const std::vector<Tensor>& projected) {
  const AttentionSpec& spec = pass.spec.attention;
  const LayerContext& context = pass.context;
  if (spec.latent) return latent_heads(spec, pass.layer, context.ropes[*spec.rope], context.compute, projected);
  HeadsOf heads = split_heads(spec, projected);
  heads.q_NHd = positioned(pass, heads.q_NHd, pass.layer.q_norm);
  heads.k_NKd = positioned(pass, heads.k_NKd, pass.layer.k_norm);
  heads.v_NKd = clipped(spec, heads.v_NKd);
  if (spec.query_growth) heads.q_NHd = grown(*spec.query_growth, heads.q_NHd, context.position_N);
  return heads;
}

/// The attention's output before its projection, [N, H v].
inline Tensor attended(const LayerPass& pass, const std::vector<Tensor>& projected) {
  const AttentionSpec& spec = pass.spec.attention;
  const auto [q_NHd, k_NKd, v_NKv] = positioned_heads(pass, projected);
  if (pass.kept != nullptr) *pass.kept = {k_NKd.detach(), v_NKv.detach()};
  return causal_attention(q_NHd, k_NKd, v_NKv, pass.context.segments,
                          {.window = spec.window,
                           .scale = spec.scale,
                           .soft_cap = spec.soft_cap,
                           .alibi = spec.alibi,
                           .sinks_H = pass.layer.sinks.score_H},
                          pass.prefix)
      .flatten(-2);
}

inline std::vector<const Linear*> qkv_projections(const AttentionSpec& spec, const DecoderLayer& layer) {
  if (spec.latent) return latent_projections(*spec.latent, layer);
  if (spec.layout == QkvLayout::separate) return {&layer.q_proj, &layer.k_proj, &layer.v_proj};
  return {&layer.qkv_proj};
}
inline std::vector<const Linear*> mlp_projections(const MlpSpec& spec, const DecoderLayer& layer) {
  if (spec.is_fused) return {&layer.gate_up_proj};
  if (spec.is_gated) return {&layer.gate_proj, &layer.up_proj};
  return {&layer.up_proj};
}

/// The feed-forward part's output from that of its first projections, which begin at `projected[first]`.
inline Tensor mlp_output(const MlpSpec& spec, const DecoderLayer& layer, const std::vector<Tensor>& projected,
                         std::size_t first) {
  if (spec.is_xielu) return layer.down_proj(layer.xielu(projected[first]));
  if (!spec.is_gated) return layer.down_proj(activate(spec.activation, projected[first]));
  if (!spec.is_fused) return gated_down(spec.activation, projected[first], projected[first + 1], layer.down_proj);
  const auto halves = projected[first].chunk(2, -1);
  return gated_down(spec.activation, halves[0], halves[1], layer.down_proj);
}

/// What the experts make of their normed input.
inline Tensor experts_of(const LayerPass& pass, const Tensor& x_ND) {
  return experts_output(pass.spec, pass.layer, x_ND, pass.context.token_weight_N, pass.sums);
}

/// What a part adds to the residual stream.
inline Tensor residual_of(const LayerPass& pass, const Tensor& out_ND, const std::optional<NormSpec>& spec,
                          const Norm& norm) {
  const Tensor normed = spec ? normalized(*spec, norm, out_ND, out_ND.scalar_type()) : out_ND;
  return pass.spec.residual_scale == 1 ? normed : normed * pass.spec.residual_scale;
}

/// Attention and feed-forward part of one input.
inline Tensor parallel_layer(const LayerPass& pass, const Tensor& hidden_ND) {
  const auto& [context, spec, layer, prefix, kept, sums] = pass;
  const at::ScalarType compute = context.compute;
  const auto qkv = qkv_projections(spec.attention, layer), mlp = mlp_projections(spec.mlp, layer);
  std::vector<Tensor> projected;
  if (spec.before_mlp) {
    projected = normalized_linears(spec.before_attention, layer.before_attention, hidden_ND, compute, qkv);
    for (Tensor& each : normalized_linears(spec.before_mlp, layer.before_mlp, hidden_ND, compute, mlp))
      projected.push_back(std::move(each));
  } else {
    std::vector<const Linear*> all = qkv;
    all.insert(all.end(), mlp.begin(), mlp.end());
    projected = normalized_linears(spec.before_attention, layer.before_attention, hidden_ND, compute, all);
  }
  const Tensor attention_ND =
      residual_of(pass, layer.o_proj(attended(pass, projected)), spec.after_attention, layer.after_attention);
  const Tensor mlp_ND =
      residual_of(pass, mlp_output(spec.mlp, layer, projected, qkv.size()), spec.after_mlp, layer.after_mlp);
  return hidden_ND + attention_ND + mlp_ND;
}

/// A layer whose norms follow its sums.
inline Tensor normalizing_layer(const LayerPass& pass, const Tensor& hidden_ND) {
  const auto& [context, spec, layer, prefix, kept, sums] = pass;
  const auto qkv = normalized_linears({}, {}, hidden_ND, context.compute, qkv_projections(spec.attention, layer));
  const Tensor middle_ND = normalized(*spec.after_attention, layer.after_attention,
                                      hidden_ND + layer.o_proj(attended(pass, qkv)), hidden_ND.scalar_type());
  const auto mlp = normalized_linears({}, {}, middle_ND, context.compute, mlp_projections(spec.mlp, layer));
  return normalized(*spec.after_mlp, layer.after_mlp, middle_ND + mlp_output(spec.mlp, layer, mlp, 0),
                    hidden_ND.scalar_type());
}

}  // namespace detail

/// One layer: states [N, D] in, states out, in float32 or wider. Segments' prefixes refer to `prefix`, or to the row
/// itself if that is empty. `kept`, if given, receives the row's keys and values, without gradient, and `sums` those of
/// the router, where the layer has experts.
inline Tensor layer_forward(const LayerContext& context, const LayerSpec& spec, const DecoderLayer& layer,
                            const Tensor& hidden_ND, const KeysValues& prefix = {}, KeysValues* kept = nullptr,
                            RouterSums* sums = nullptr) {
  const detail::LayerPass pass{context, spec, layer, prefix, kept, sums};
  if (spec.is_parallel) return detail::parallel_layer(pass, hidden_ND);
  if (spec.normalizes_sums) return detail::normalizing_layer(pass, hidden_ND);
  const at::ScalarType compute = context.compute;
  const auto qkv = normalized_linears(spec.before_attention, layer.before_attention, hidden_ND, compute,
                                      detail::qkv_projections(spec.attention, layer));
  const Tensor attention_ND =
      detail::residual_of(pass, layer.o_proj(detail::attended(pass, qkv)), spec.after_attention, layer.after_attention);
  if (spec.experts) {
    const Tensor middle_ND = hidden_ND + attention_ND;
    const Tensor x_ND = normalized(*spec.before_mlp, layer.before_mlp, middle_ND, compute);
    return middle_ND + detail::residual_of(pass, detail::experts_of(pass, x_ND), spec.after_mlp, layer.after_mlp);
  }
  const auto middle = add_normalized_linears(spec.before_mlp, layer.before_mlp, hidden_ND, attention_ND, compute,
                                             detail::mlp_projections(spec.mlp, layer));  // the sum comes first
  return middle[0] +
         detail::residual_of(pass, detail::mlp_output(spec.mlp, layer, middle, 1), spec.after_mlp, layer.after_mlp);
}

namespace detail {

/// Whether a layer's output is random when gradients are computed (dropout).
inline bool drops(const ModelSpec& spec, const LayerSpec& of, const DecoderLayer& layer) {
  bool out = false;
  visit_layer_modules(spec, of, layer, "", [&](const std::string&, const auto& module, const ModuleShape&) {
    if constexpr (is_a<decltype(module), Linear>) out = out || (module.lora && module.lora->dropout > 0);
  });
  return out;
}

inline std::vector<Tensor> trained_parameters(const ModelSpec& spec, const LayerSpec& of, const DecoderLayer& layer) {
  std::vector<Tensor> out;
  const auto add = [&](const std::string&, const Tensor& tensor, const auto&...) {
    if (tensor.requires_grad()) out.push_back(tensor);
  };
  visit_layer_modules(spec, of, layer, "", [&](const std::string& path, const auto& module, const ModuleShape& shape) {
    visit_module_parameters(path, module, shape, add);
  });
  visit_layer_modules(spec, of, layer, "", [&](const std::string& path, const auto& module, const ModuleShape&) {
    visit_module_lora(path, module, add);
  });
  return out;
}

}  // namespace detail

}  // namespace kto
