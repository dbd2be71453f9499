// SPDX-License-Identifier: Apache-2.0
// The forward pass of one layer, as its LayerSpec says.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "kto/collate/batch.hpp"
#include "kto/model/experts.hpp"
#include "kto/model/latent.hpp"
#include "kto/model/mixers.hpp"
#include "kto/model/normalize.hpp"
#include "kto/nn/attention.hpp"
#include "kto/nn/relative_bias.hpp"
#include "kto/nn/rotate.hpp"
#include "kto/nn/segment_attention.hpp"

namespace kto {

// Shapes: N tokens of a batch in one row, D width, H heads, K key/value heads, d head dimension, M intermediate width.

/// What all layers of a decoder share in one forward pass.
struct LayerContext {
  at::ScalarType compute;
  std::vector<RopeTables> ropes;
  std::vector<Segment> segments;
  Tensor position_N;
  Tensor token_weight_N = {};  ///< in the load-balancing loss; undefined where that is not wanted
  bool is_causal = true;
  std::vector<std::int64_t> lengths = {};  ///< real tokens of each segment
  Tensor encoded_MD = {};                  ///< an encoder's states; undefined where a pass before has kept them
  std::vector<KeyRange> prompts = {};      ///< of each segment, its prompt among those
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
  const LayerMemory& prefix;
  LayerMemory* kept;
  const LayerInputs& inputs;
  RouterSums* sums = nullptr;
};

/// Queries, keys and values by head, from the output of the projections. Values are copied out of one projection for
/// all, whose output is then not kept for them.
inline HeadsOf split_heads(const AttentionSpec& spec, const std::vector<Tensor>& projected) {
  const std::int64_t H = spec.num_heads, K = spec.num_kv_heads, d = spec.head_dim;
  const auto heads = [&](const Tensor& x) { return x.unflatten(-1, {-1, d}); };
  if (spec.layout == QkvLayout::separate)
    return {heads(projected[0]), heads(projected[1]), heads(projected[spec.kv.values_are_keys ? 1 : 2])};
  if (spec.layout == QkvLayout::gated) {
    const auto with_gate = projected[0].unflatten(-1, {H, 2, d}).unbind(-2);
    return {with_gate[0], heads(projected[1]), heads(projected[2]), with_gate[1]};
  }
  const Tensor all = heads(projected[0]);
  if (spec.layout == QkvLayout::stacked) {
    const auto parts = all.split_with_sizes({H, K, K}, -2);
    return {parts[0], parts[1], parts[2].contiguous()};
  }
  auto parts = all.unflatten(-2, {K, H / K + 2}).split_with_sizes({H / K, 1, 1}, -2);
  return {parts[0].flatten(-3, -2), parts[1].squeeze(-2), parts[2].squeeze(-2).contiguous()};
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
  return (after ? normed(out, compute) : out).to(compute).contiguous();
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
/// Queries, with keys and values made once more as the source of them does.
inline std::vector<Tensor> with_source(const LayerPass& pass, const Tensor& queries) {
  const auto& [spec, layer, hidden_ND] = *pass.inputs.source;
  std::vector<Tensor> out{queries};
  for (Tensor& each : normalized_linears(spec.before_attention, layer.before_attention, hidden_ND, pass.context.compute,
                                         key_value_projections(spec.attention, layer)))
    out.push_back(std::move(each));
  return out;
}

/// Queries, keys and values as the attention takes them.
inline HeadsOf positioned_heads(const LayerPass& pass, const std::vector<Tensor>& projected) {
  const AttentionSpec& spec = pass.spec.attention;
  const LayerContext& context = pass.context;
  if (spec.latent) return latent_heads(spec, pass.layer, context.ropes[*spec.rope], context.compute, projected);
  const auto& source = pass.inputs.source;
  HeadsOf heads = split_heads(spec, source ? with_source(pass, projected[0]) : projected);
  heads.q_NHd = positioned(pass, heads.q_NHd, pass.layer.q_norm);
  heads.k_NKd = positioned(pass, heads.k_NKd, (source ? source->layer : pass.layer).k_norm);
  heads.v_NKd = clipped(spec, heads.v_NKd);
  if (spec.kv.value_norm) heads.v_NKd = normalized(*spec.kv.value_norm, {}, heads.v_NKd, context.compute);
  if (spec.query_growth) heads.q_NHd = grown(*spec.query_growth, heads.q_NHd, context.position_N);
  return heads;
}

/// Attention that causal_attention does not have: in both directions, or with relative biases.
inline Tensor attended_by_segment(const LayerPass& pass, const Tensor& q_NHd, const Tensor& k_NHd,
                                  const Tensor& v_NHd) {
  const auto& [context, spec, layer, prefix, kept, inputs, sums] = pass;
  SegmentAttention form{.scale = spec.attention.scale, .is_causal = context.is_causal};
  std::int64_t first = 0;  // position of the first query
  Tensor keys = k_NHd, values = v_NHd;
  std::vector<KeyRange> ranges;
  for (std::size_t s = 0; s < context.segments.size(); ++s) {
    const Segment& segment = context.segments[s];
    ranges.push_back({segment.begin, context.is_causal ? segment.length : context.lengths[s]});
    if (segment.prefix_length == 0) continue;
    check(context.segments.size() == 1 && prefix.attention.k_NKd.defined(),
          "a model with relative position biases shares no prompts within a row");
    first = segment.prefix_length;
    ranges[s] = {segment.prefix_begin, first + segment.length};
    keys = at::cat({prefix.attention.k_NKd, k_NHd});
    values = at::cat({prefix.attention.v_NKd, v_NHd});
  }
  if (spec.relative_bias)
    form.bias = [&, table_KH = layer.relative_bias.weight_PD.to(wide_type(context.compute))](std::int64_t num_queries,
                                                                                             std::int64_t num_keys) {
      return relative_bias(*spec.relative_bias, table_KH, num_queries, num_keys, first);
    };
  return segment_attention(q_NHd, keys, values, context.segments, ranges, form);
}

/// What attention to the encoder's states gives for queries [N, H d], before its projection.
inline Tensor attended_across(const LayerPass& pass, const Tensor& q_ND) {
  const auto& [context, of, layer, prefix, kept, inputs, sums] = pass;
  const AttentionSpec& spec = of.cross->attention;
  const auto heads = [&](const Tensor& x) { return x.unflatten(-1, {-1, spec.head_dim}); };
  KeysValues seen = prefix.cross;
  if (context.encoded_MD.defined())
    seen = {heads(layer.cross.k_proj(context.encoded_MD)), heads(layer.cross.v_proj(context.encoded_MD))};
  check(seen.k_NKd.defined(), "the model is an encoder-decoder, and the batch has no prompts for its encoder");
  if (kept != nullptr) kept->cross = {seen.k_NKd.detach(), seen.v_NKd.detach()};
  return segment_attention(heads(q_ND), seen.k_NKd, seen.v_NKd, context.segments, context.prompts,
                           {.scale = spec.scale})
      .flatten(-2);
}

/// The attention's output before its projection, [N, H v].
inline Tensor attended(const LayerPass& pass, const std::vector<Tensor>& projected) {
  const AttentionSpec& spec = pass.spec.attention;
  const auto [q_NHd, k_NKd, v_NKv, gate_NHd] = positioned_heads(pass, projected);
  if (pass.kept != nullptr) pass.kept->attention = {k_NKd.detach(), v_NKv.detach()};
  if (pass.spec.relative_bias || !pass.context.is_causal)
    return attended_by_segment(pass, q_NHd, k_NKd, v_NKv).flatten(-2);
  const Tensor out_NHv = causal_attention(q_NHd, k_NKd, v_NKv, pass.context.segments,
                                          {.window = spec.window,
                                           .scale = spec.scale,
                                           .soft_cap = spec.soft_cap,
                                           .alibi = spec.alibi,
                                           .sinks_H = pass.layer.sinks.score_H},
                                          pass.prefix.attention);
  return (gate_NHd.defined() ? out_NHv * gate_NHd.sigmoid() : out_NHv).flatten(-2);
}

/// The same of whatever mixer the layer has.
inline Tensor mixed(const LayerPass& pass, const std::vector<Tensor>& projected) {
  const MixerPass mixer{pass.layer.mixer, pass.context.segments, pass.prefix, pass.kept};
  if (pass.spec.short_conv) return short_conv_output(mixer, projected);
  if (pass.spec.delta_rule) return delta_rule_output(*pass.spec.delta_rule, mixer, projected);
  return attended(pass, projected);
}

/// The first projections of the mixer.
inline std::vector<const Linear*> mixer_projections(const LayerSpec& spec, const DecoderLayer& layer) {
  const MixerModules& mixer = layer.mixer;
  if (spec.short_conv) return {&mixer.in_proj};
  if (spec.delta_rule && spec.delta_rule->is_grouped) return {&mixer.qkvz_proj, &mixer.ba_proj};
  if (spec.delta_rule) return {&mixer.qkv_proj, &mixer.z_proj, &mixer.b_proj, &mixer.a_proj};
  if (spec.attention.latent) return latent_projections(*spec.attention.latent, layer);
  if (!has_separate_projections(spec.attention)) return {&layer.qkv_proj};
  std::vector<const Linear*> out{&layer.q_proj};
  if (!spec.attention.kv.of_layer)
    for (const Linear* each : key_value_projections(spec.attention, layer)) out.push_back(each);
  return out;
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
  const Tensor up_NM = spec.is_gated && !spec.is_fused ? projected[first + 1] : Tensor();
  return gated_down(spec.activation, {projected[first], up_NM, spec.is_fused}, layer.down_proj);
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

/// The end of a layer: what its embedding of the tokens adds, and its constant.
inline Tensor with_embedding(const LayerPass& pass, Tensor hidden_ND) {
  const auto& [context, spec, layer, prefix, kept, inputs, sums] = pass;
  if (spec.embedding) {
    const Tensor gate_NP = layer.embedding_gate(hidden_ND.to(context.compute));
    const Tensor out_ND =
        gated_down(spec.embedding->activation, {gate_NP, inputs.embedding_NP}, layer.embedding_projection);
    hidden_ND = hidden_ND + normalized(spec.embedding->norm, layer.after_embedding, out_ND, hidden_ND.scalar_type());
  }
  return spec.has_scalar ? hidden_ND * layer.scalar_1.to(hidden_ND.options()) : hidden_ND;
}

/// Attention and feed-forward part of one input.
inline Tensor parallel_layer(const LayerPass& pass, const Tensor& hidden_ND) {
  const auto& [context, spec, layer, prefix, kept, inputs, sums] = pass;
  const at::ScalarType compute = context.compute;
  const auto qkv = mixer_projections(spec, layer), mlp = mlp_projections(spec.mlp, layer);
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
      residual_of(pass, layer.o_proj(mixed(pass, projected)), spec.after_attention, layer.after_attention);
  const Tensor mlp_ND =
      residual_of(pass, mlp_output(spec.mlp, layer, projected, qkv.size()), spec.after_mlp, layer.after_mlp);
  return hidden_ND + attention_ND + mlp_ND;
}

/// A layer whose norms follow its sums.
inline Tensor normalizing_layer(const LayerPass& pass, const Tensor& hidden_ND) {
  const auto& [context, spec, layer, prefix, kept, inputs, sums] = pass;
  const auto qkv = normalized_linears({}, {}, hidden_ND, context.compute, mixer_projections(spec, layer));
  Tensor middle_ND = normalized(*spec.after_attention, layer.after_attention,
                                hidden_ND + layer.o_proj(mixed(pass, qkv)), hidden_ND.scalar_type());
  if (spec.cross) {
    const Tensor across_ND = attended_across(pass, layer.cross.q_proj(middle_ND.to(context.compute)));
    middle_ND = normalized(*spec.cross->after, layer.cross.after, middle_ND + layer.cross.o_proj(across_ND),
                           hidden_ND.scalar_type());
  }
  const auto mlp = normalized_linears({}, {}, middle_ND, context.compute, mlp_projections(spec.mlp, layer));
  return normalized(*spec.after_mlp, layer.after_mlp, middle_ND + mlp_output(spec.mlp, layer, mlp, 0),
                    hidden_ND.scalar_type());
}

}  // namespace detail

/// One layer: states [N, D] in, states out, in float32 or wider. Segments' prefixes refer to `prefix`, or to the row
/// itself if that is empty. `kept`, if given, receives what tokens that follow need, without gradient, and `sums` those
/// of the router, where the layer has experts.
inline Tensor layer_forward(const LayerContext& context, const LayerSpec& spec, const DecoderLayer& layer,
                            const Tensor& hidden_ND, const LayerMemory& prefix = {}, LayerMemory* kept = nullptr,
                            const LayerInputs& inputs = {}, RouterSums* sums = nullptr) {
  const detail::LayerPass pass{context, spec, layer, prefix, kept, inputs, sums};
  if (spec.is_parallel) return detail::parallel_layer(pass, hidden_ND);
  if (spec.normalizes_sums) return detail::normalizing_layer(pass, hidden_ND);
  const at::ScalarType compute = context.compute;
  const auto qkv = normalized_linears(spec.before_attention, layer.before_attention, hidden_ND, compute,
                                      detail::mixer_projections(spec, layer));
  Tensor added_ND =
      detail::residual_of(pass, layer.o_proj(detail::mixed(pass, qkv)), spec.after_attention, layer.after_attention);
  Tensor stream_ND = hidden_ND;
  if (spec.cross) {
    const auto crossing = add_normalized_linears(spec.cross->before, layer.cross.before, stream_ND, added_ND, compute,
                                                 {&layer.cross.q_proj});
    stream_ND = crossing[0];
    added_ND = layer.cross.o_proj(detail::attended_across(pass, crossing[1]));
  }
  if (spec.experts) {
    const Tensor middle_ND = stream_ND + added_ND;
    const Tensor x_ND = normalized(*spec.before_mlp, layer.before_mlp, middle_ND, compute);
    return middle_ND + detail::residual_of(pass, detail::experts_of(pass, x_ND), spec.after_mlp, layer.after_mlp);
  }
  const auto middle = add_normalized_linears(spec.before_mlp, layer.before_mlp, stream_ND, added_ND, compute,
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
