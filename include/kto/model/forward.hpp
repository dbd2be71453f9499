// SPDX-License-Identifier: Apache-2.0
// The forward pass of one layer, as its LayerSpec says.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "kto/collate/batch.hpp"
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
};

/// What a layer gets beside the residual stream.
struct LayerInputs {
  /// The layer whose keys and values it uses, and that layer's input.
  struct Source {
    LayerSpec spec;
    DecoderLayer layer;
    Tensor hidden_ND;
  };
  Tensor embedding_NP = {};  ///< see LayerEmbeddingSpec
  std::optional<Source> source = std::nullopt;
};

namespace detail {

/// What a pass has of one layer.
struct LayerPass {
  const LayerContext& context;
  const LayerSpec& spec;
  const DecoderLayer& layer;
  const KeysValues& prefix;
  KeysValues* kept;
  const LayerInputs& inputs;
};

struct HeadsOf {
  Tensor q_NHd, k_NKd, v_NKd;
};

/// Queries, keys and values by head, from the output of the projections.
inline HeadsOf split_heads(const AttentionSpec& spec, const std::vector<Tensor>& projected) {
  const std::int64_t H = spec.num_heads, K = spec.num_kv_heads, d = spec.head_dim;
  const auto heads = [&](const Tensor& x) {
    const Tensor clamped = spec.clip_qkv > 0 ? x.clamp(-spec.clip_qkv, spec.clip_qkv) : x;
    return clamped.unflatten(-1, {-1, d});
  };
  if (spec.layout == QkvLayout::separate)
    return {heads(projected[0]), heads(projected[1]), heads(projected[spec.kv.values_are_keys ? 1 : 2])};
  const Tensor all = heads(projected[0]);
  if (spec.layout == QkvLayout::stacked) {
    auto parts = all.split_with_sizes({H, K, K}, -2);
    return {std::move(parts[0]), std::move(parts[1]), std::move(parts[2])};
  }
  auto parts = all.unflatten(-2, {K, H / K + 2}).split_with_sizes({H / K, 1, 1}, -2);
  return {parts[0].flatten(-3, -2), parts[1].squeeze(-2), parts[2].squeeze(-2)};
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
  Tensor out = before ? normed(x_NHd, wide_type(compute)) : x_NHd;
  if (spec.rope) out = apply_rope(out, pass.context.ropes[*spec.rope], compute);
  return (after ? normed(out, compute) : out).to(compute);
}

/// The queries as QueryGrowth says, with factors in float32 as in transformers.
inline Tensor grown(const QueryGrowth& growth, const Tensor& q_NHd, const Tensor& position_N) {
  const Tensor periods_N = (position_N.to(at::kFloat) / growth.length).floor();
  const Tensor factor_N = 1 + growth.beta * (1 + periods_N).log();
  return q_NHd * factor_N.to(q_NHd.scalar_type()).unsqueeze(-1).unsqueeze(-1);
}

inline std::vector<const Linear*> key_value_projections(const AttentionSpec& spec, const DecoderLayer& layer) {
  if (spec.kv.values_are_keys) return {&layer.k_proj};
  return {&layer.k_proj, &layer.v_proj};
}
inline std::vector<const Linear*> qkv_projections(const AttentionSpec& spec, const DecoderLayer& layer) {
  if (spec.layout != QkvLayout::separate) return {&layer.qkv_proj};
  std::vector<const Linear*> out{&layer.q_proj};
  if (!spec.kv.of_layer)
    for (const Linear* each : key_value_projections(spec, layer)) out.push_back(each);
  return out;
}

/// Queries, with keys and values made once more as the source of them does.
inline std::vector<Tensor> with_source(const LayerPass& pass, const Tensor& queries) {
  const auto& [spec, layer, hidden_ND] = *pass.inputs.source;
  std::vector<Tensor> out{queries};
  for (Tensor& each : normalized_linears(spec.before_attention, layer.before_attention, hidden_ND, pass.context.compute,
                                         key_value_projections(spec.attention, layer)))
    out.push_back(std::move(each));
  return out;
}

/// The attention's output before its projection, [N, H d].
inline Tensor attended(const LayerPass& pass, const std::vector<Tensor>& projected) {
  const AttentionSpec& spec = pass.spec.attention;
  const auto& source = pass.inputs.source;
  HeadsOf heads = split_heads(spec, source ? with_source(pass, projected[0]) : projected);
  const Tensor placed_NHd = positioned(pass, heads.q_NHd, pass.layer.q_norm),
               k_NKd = positioned(pass, heads.k_NKd, (source ? source->layer : pass.layer).k_norm);
  if (spec.kv.value_norm) heads.v_NKd = normalized(*spec.kv.value_norm, {}, heads.v_NKd, pass.context.compute);
  const Tensor q_NHd = spec.query_growth ? grown(*spec.query_growth, placed_NHd, pass.context.position_N) : placed_NHd;
  if (pass.kept != nullptr) *pass.kept = {k_NKd.detach(), heads.v_NKd.detach()};
  return causal_attention(q_NHd, k_NKd, heads.v_NKd, pass.context.segments,
                          {.window = spec.window, .scale = spec.scale, .soft_cap = spec.soft_cap, .alibi = spec.alibi},
                          pass.prefix)
      .flatten(-2);
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

/// What a part adds to the residual stream.
inline Tensor residual_of(const LayerPass& pass, const Tensor& out_ND, const std::optional<NormSpec>& spec,
                          const Norm& norm) {
  const Tensor normed = spec ? normalized(*spec, norm, out_ND, out_ND.scalar_type()) : out_ND;
  return pass.spec.residual_scale == 1 ? normed : normed * pass.spec.residual_scale;
}

/// The end of a layer: what its embedding of the tokens adds, and its constant.
inline Tensor with_embedding(const LayerPass& pass, Tensor hidden_ND) {
  const auto& [context, spec, layer, prefix, kept, inputs] = pass;
  if (spec.embedding) {
    const Tensor gate_NP = layer.embedding_gate(hidden_ND.to(context.compute));
    const Tensor out_ND =
        gated_down(spec.embedding->activation, gate_NP, inputs.embedding_NP, layer.embedding_projection);
    hidden_ND = hidden_ND + normalized(spec.embedding->norm, layer.after_embedding, out_ND, hidden_ND.scalar_type());
  }
  return spec.has_scalar ? hidden_ND * layer.scalar.value.to(hidden_ND.options()) : hidden_ND;
}

/// Attention and feed-forward part of one input.
inline Tensor parallel_layer(const LayerPass& pass, const Tensor& hidden_ND) {
  const auto& [context, spec, layer, prefix, kept, inputs] = pass;
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
  const auto& [context, spec, layer, prefix, kept, inputs] = pass;
  const auto qkv = normalized_linears({}, {}, hidden_ND, context.compute, qkv_projections(spec.attention, layer));
  const Tensor middle_ND = normalized(*spec.after_attention, layer.after_attention,
                                      hidden_ND + layer.o_proj(attended(pass, qkv)), hidden_ND.scalar_type());
  const auto mlp = normalized_linears({}, {}, middle_ND, context.compute, mlp_projections(spec.mlp, layer));
  return normalized(*spec.after_mlp, layer.after_mlp, middle_ND + mlp_output(spec.mlp, layer, mlp, 0),
                    hidden_ND.scalar_type());
}

}  // namespace detail

/// One layer: states [N, D] in, states out, in float32 or wider. Segments' prefixes refer to `prefix`, or to the row
/// itself if that is empty. `kept`, if given, receives the row's keys and values, without gradient.
inline Tensor layer_forward(const LayerContext& context, const LayerSpec& spec, const DecoderLayer& layer,
                            const Tensor& hidden_ND, const KeysValues& prefix = {}, KeysValues* kept = nullptr,
                            const LayerInputs& inputs = {}) {
  const detail::LayerPass pass{context, spec, layer, prefix, kept, inputs};
  if (spec.is_parallel) return detail::parallel_layer(pass, hidden_ND);
  if (spec.normalizes_sums) return detail::normalizing_layer(pass, hidden_ND);
  const at::ScalarType compute = context.compute;
  const auto qkv = normalized_linears(spec.before_attention, layer.before_attention, hidden_ND, compute,
                                      detail::qkv_projections(spec.attention, layer));
  const Tensor attention_ND =
      detail::residual_of(pass, layer.o_proj(detail::attended(pass, qkv)), spec.after_attention, layer.after_attention);
  const auto middle = add_normalized_linears(spec.before_mlp, layer.before_mlp, hidden_ND, attention_ND, compute,
                                             detail::mlp_projections(spec.mlp, layer));  // the sum comes first
  const Tensor mlp_ND =
      detail::residual_of(pass, detail::mlp_output(spec.mlp, layer, middle, 1), spec.after_mlp, layer.after_mlp);
  return detail::with_embedding(pass, middle[0] + mlp_ND);
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

/// Everything with a gradient that a layer's output depends on, besides the residual stream.
inline std::vector<Tensor> trained_parameters(const ModelSpec& spec, const LayerSpec& of, const DecoderLayer& layer,
                                              const LayerInputs& inputs) {
  std::vector<Tensor> out;
  if (inputs.source) {
    out = trained_parameters(spec, inputs.source->spec, inputs.source->layer, {});
    if (inputs.source->hidden_ND.requires_grad()) out.push_back(inputs.source->hidden_ND);
  }
  if (inputs.embedding_NP.defined() && inputs.embedding_NP.requires_grad()) out.push_back(inputs.embedding_NP);
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
