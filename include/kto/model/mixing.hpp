// SPDX-License-Identifier: Apache-2.0
// The part of a layer in which tokens see each other: its attention, or the mixer in place of it, from the output of the
// first projections to the input of the last.
#pragma once

#include <optional>
#include <vector>

#include "kto/collate/batch.hpp"
#include "kto/model/experts.hpp"
#include "kto/model/latent.hpp"
#include "kto/model/mixers.hpp"
#include "kto/nn/attention.hpp"
#include "kto/nn/rotate.hpp"

namespace kto {

// Shapes: N tokens of a batch in one row, D width, H heads, K key/value heads, d head dimension.

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
  Tensor needed_S = {};  ///< the positions whose output is asked for, in the last layer; undefined: all
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
  return attention(heads(q_ND), seen.k_NKd, seen.v_NKd, context.segments, {.scale = spec.scale}, {}, context.prompts)
      .flatten(-2);
}

/// The attention's output before its projection, [N, H v].
inline Tensor attended(const LayerPass& pass, const std::vector<Tensor>& projected) {
  const AttentionSpec& spec = pass.spec.attention;
  const auto [q_NHd, k_NKd, v_NKv, gate_NHd] = positioned_heads(pass, projected);
  if (pass.kept != nullptr) pass.kept->attention = {k_NKd.detach(), v_NKv.detach()};
  AttentionForm form{.window = spec.window,
                     .scale = spec.scale,
                     .soft_cap = spec.soft_cap,
                     .alibi = spec.alibi,
                     .sinks_H = pass.layer.sinks.score_H,
                     .relative = pass.spec.relative_bias};
  if (form.relative) form.bias_BH = pass.layer.relative_bias.weight_PD.to(wide_type(pass.context.compute));
  std::vector<KeyRange> all;  // that tokens see in an encoder: padding is left out
  if (!pass.context.is_causal)
    for (std::size_t s = 0; s < pass.context.segments.size(); ++s)
      all.push_back({pass.context.segments[s].begin, pass.context.lengths[s]});
  const Tensor out_NHv = attention(q_NHd, k_NKd, v_NKv, pass.context.segments, form, pass.prefix.attention, all);
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

}  // namespace detail

}  // namespace kto
