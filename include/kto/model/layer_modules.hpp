// SPDX-License-Identifier: Apache-2.0
// The modules of a layer under transformers' names, as its LayerSpec says.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "kto/model/module_types.hpp"

namespace kto::detail {

template <class Layer, class Visit>
void visit_latent_modules(const ModelSpec& spec, const AttentionSpec& of, Layer& layer, const std::string& prefix,
                          const Visit& visit) {
  const AttentionNames& names = spec.names.layer.attention;
  const LatentSpec& latent = *of.latent;
  const std::int64_t D = spec.hidden_size, H = of.num_heads, d = of.head_dim;
  if (latent.query_rank) {
    visit(prefix + names.latent.q_a, layer.q_a_proj, ModuleShape{{*latent.query_rank, D}, latent.bias});
    visit(prefix + names.latent.q_norm, layer.q_a_norm, norm_shape(latent.norm, {*latent.query_rank}));
    visit(prefix + names.latent.q_b, layer.q_b_proj, ModuleShape{{H * d, *latent.query_rank}});
  } else {
    visit(prefix + names.q, layer.q_proj, ModuleShape{{H * d, D}});
  }
  visit(prefix + names.latent.kv_a, layer.kv_a_proj, ModuleShape{{latent.rank + latent.rope_dim, D}, latent.bias});
  visit(prefix + names.latent.kv_norm, layer.kv_a_norm, norm_shape(latent.norm, {latent.rank}));
  visit(prefix + names.latent.kv_b, layer.kv_b_proj,
        ModuleShape{{H * (d - latent.rope_dim + latent.value_dim), latent.rank}});
}

template <class Layer, class Visit>
void visit_attention_modules(const ModelSpec& spec, const AttentionSpec& of, Layer& layer, const std::string& prefix,
                             const Visit& visit) {
  const AttentionNames& names = spec.names.layer.attention;
  const std::int64_t D = spec.hidden_size, d = of.head_dim, Hd = of.num_heads * d, Kd = of.num_kv_heads * d;
  if (of.latent) {
    visit_latent_modules(spec, of, layer, prefix, visit);
  } else if (has_separate_projections(of)) {
    const std::int64_t queries = of.layout == QkvLayout::gated ? 2 * Hd : Hd;
    visit(prefix + names.q, layer.q_proj, ModuleShape{{queries, D}, of.qkv_bias});
    if (!of.kv.of_layer) visit(prefix + names.k, layer.k_proj, ModuleShape{{Kd, D}, of.qkv_bias});
    if (!of.kv.of_layer && !of.kv.values_are_keys)
      visit(prefix + names.v, layer.v_proj, ModuleShape{{Kd, D}, of.qkv_bias});
  } else {
    visit(prefix + names.qkv, layer.qkv_proj, ModuleShape{{Hd + 2 * Kd, D}, of.qkv_bias});
  }
  if (of.has_sinks) visit(prefix + names.sinks, layer.sinks, ModuleShape{{of.num_heads}});
  visit(prefix + names.output, layer.o_proj, ModuleShape{{D, of.num_heads * value_dim(of)}, of.output_bias});
}

template <class Layer, class Visit>
void visit_short_conv_modules(const ModelSpec& spec, const ShortConvSpec& of, Layer& layer, const std::string& prefix,
                              const Visit& visit) {
  const std::int64_t D = spec.hidden_size;
  visit(prefix + ".in_proj", layer.mixer.in_proj, ModuleShape{{3 * D, D}, of.has_bias});
  visit(prefix + ".conv", layer.mixer.conv, ModuleShape{{D, 1, of.num_taps}, of.has_bias});
  visit(prefix + ".out_proj", layer.o_proj, ModuleShape{{D, D}, of.has_bias});
}

template <class Layer, class Visit>
void visit_delta_rule_modules(const ModelSpec& spec, const DeltaRuleSpec& of, Layer& layer, const std::string& prefix,
                              const Visit& visit) {
  const std::int64_t D = spec.hidden_size, H = of.num_value_heads, values = H * of.value_dim,
                     channels = 2 * of.num_key_heads * of.key_dim + values;
  auto& mixer = layer.mixer;
  visit(prefix, mixer.decay, ModuleShape{{H}});
  visit(prefix + ".conv1d", mixer.conv, ModuleShape{{channels, 1, of.num_taps}});
  if (of.is_grouped) {
    visit(prefix + ".in_proj_qkvz", mixer.qkvz_proj, ModuleShape{{channels + values, D}});
    visit(prefix + ".in_proj_ba", mixer.ba_proj, ModuleShape{{2 * H, D}});
  } else {
    visit(prefix + ".in_proj_qkv", mixer.qkv_proj, ModuleShape{{channels, D}});
    visit(prefix + ".in_proj_z", mixer.z_proj, ModuleShape{{values, D}});
    visit(prefix + ".in_proj_b", mixer.b_proj, ModuleShape{{H, D}});
    visit(prefix + ".in_proj_a", mixer.a_proj, ModuleShape{{H, D}});
  }
  visit(prefix + ".norm", mixer.norm, norm_shape(of.norm, {of.value_dim}));
  visit(prefix + ".out_proj", layer.o_proj, ModuleShape{{D, values}});
}

template <class Layer, class Visit>
void visit_mixer_modules(const ModelSpec& spec, const LayerSpec& of, Layer& layer, const std::string& prefix,
                         const Visit& visit) {
  const std::string mixer = prefix + spec.names.layer.mixer;
  if (of.short_conv)
    visit_short_conv_modules(spec, *of.short_conv, layer, mixer, visit);
  else if (of.delta_rule)
    visit_delta_rule_modules(spec, *of.delta_rule, layer, mixer, visit);
  else
    visit_attention_modules(spec, of.attention, layer, prefix, visit);
}

template <class Layer, class Visit>
void visit_mlp_modules(const ModelSpec& spec, const MlpSpec& of, Layer& layer, const std::string& prefix,
                       const Visit& visit) {
  const LayerNames& names = spec.names.layer;
  const std::int64_t D = spec.hidden_size, M = of.intermediate_size;
  if (of.is_fused) {
    visit(prefix + names.gate_up, layer.gate_up_proj, ModuleShape{{2 * M, D}, of.bias});
  } else {
    if (of.is_gated) visit(prefix + names.gate, layer.gate_proj, ModuleShape{{M, D}, of.bias});
    visit(prefix + names.up, layer.up_proj, ModuleShape{{M, D}, of.bias});
  }
  if (of.is_xielu) visit(prefix + names.activation, layer.xielu, ModuleShape{{1}});
  visit(prefix + names.down, layer.down_proj, ModuleShape{{D, M}, of.bias});
}

template <class Layer, class Visit>
void visit_expert_modules(const ModelSpec& spec, const LayerSpec& layer_spec, Layer& layer, const std::string& prefix,
                          const Visit& visit) {
  const ExpertsNames& names = spec.names.layer.experts;
  const ExpertsSpec& of = *layer_spec.experts;
  const std::int64_t D = spec.hidden_size, M = layer_spec.mlp.intermediate_size;
  visit(prefix + names.router, layer.router,
        ModuleShape{.weight = {of.num_experts, D},
                    .has_bias = of.router.has_bias,
                    .has_correction = of.router.routing == Routing::sigmoid_groups});
  visit(prefix + names.experts, layer.experts,
        ModuleShape{{of.num_experts, of.intermediate_size, D}, of.has_bias, true, of.is_transposed});
  if (of.has_shared) {
    visit(prefix + names.shared_gate, layer.gate_proj, ModuleShape{{M, D}});
    visit(prefix + names.shared_up, layer.up_proj, ModuleShape{{M, D}});
    visit(prefix + names.shared_down, layer.down_proj, ModuleShape{{D, M}});
  }
  if (of.weighs_shared) visit(prefix + names.shared_weight, layer.shared_weight, ModuleShape{{1, D}});
}

template <class Layer, class Visit>
void visit_layer_norms(const ModelSpec& spec, const LayerSpec& of, Layer& layer, const std::string& prefix,
                       const Visit& visit) {
  const LayerNames& names = spec.names.layer;
  if (of.has_attention() && of.attention.qk_norm) {
    const QkNormSpec& norms = *of.attention.qk_norm;
    const auto shape = [&](std::int64_t num_heads) {
      const std::int64_t d = of.attention.head_dim;
      return norm_shape(norms.norm, norms.by_head
                                        ? std::vector<std::int64_t>{num_heads, d}
                                        : std::vector<std::int64_t>{norms.over_all_heads ? num_heads * d : d});
    };
    visit(prefix + names.attention.q_norm, layer.q_norm, shape(of.attention.num_heads));
    if (!of.attention.kv.of_layer)
      visit(prefix + names.attention.k_norm, layer.k_norm, shape(of.attention.num_kv_heads));
  }
  const auto visit_one = [&](const std::optional<NormSpec>& norm, const std::string& name, auto& module) {
    if (norm) visit(prefix + name, module, norm_shape(*norm, {spec.hidden_size}));
  };
  visit_one(of.before_attention, names.before_attention, layer.before_attention);
  visit_one(of.after_attention, names.after_attention, layer.after_attention);
  visit_one(of.before_mlp, names.before_mlp, layer.before_mlp);
  visit_one(of.after_mlp, names.after_mlp, layer.after_mlp);
}

template <class Layer, class Visit>
void visit_cross_modules(const ModelSpec& spec, const LayerSpec& of, Layer& layer, const std::string& prefix,
                         const Visit& visit) {
  const LayerNames& names = spec.names.layer;
  const auto& [attention, before, after] = *of.cross;
  const std::int64_t D = spec.hidden_size, Hd = attention.num_heads * attention.head_dim;
  visit(prefix + names.cross.q, layer.cross.q_proj, ModuleShape{{Hd, D}, attention.qkv_bias});
  visit(prefix + names.cross.k, layer.cross.k_proj, ModuleShape{{Hd, D}, attention.qkv_bias});
  visit(prefix + names.cross.v, layer.cross.v_proj, ModuleShape{{Hd, D}, attention.qkv_bias});
  visit(prefix + names.cross.output, layer.cross.o_proj, ModuleShape{{D, Hd}, attention.output_bias});
  if (before) visit(prefix + names.before_cross, layer.cross.before, norm_shape(*before, {D}));
  if (after) visit(prefix + names.after_cross, layer.cross.after, norm_shape(*after, {D}));
}

template <class Layer, class Visit>
void visit_layer_embedding(const ModelSpec& spec, const LayerSpec& of, Layer& layer, const std::string& prefix,
                           const Visit& visit) {
  const std::int64_t D = spec.hidden_size;
  if (of.embedding) {
    visit(prefix + "per_layer_input_gate", layer.embedding_gate, ModuleShape{{of.embedding->width, D}});
    visit(prefix + "per_layer_projection", layer.embedding_projection, ModuleShape{{D, of.embedding->width}});
    visit(prefix + "post_per_layer_input_norm", layer.after_embedding, norm_shape(of.embedding->norm, {D}));
  }
}

/// Calls visit(path, module, ModuleShape) for the modules of a layer.
template <class Layer, class Visit>
void visit_layer_modules(const ModelSpec& spec, const LayerSpec& of, Layer& layer, const std::string& prefix,
                         const Visit& visit) {
  const auto visit_linear = [&](const std::string& path, auto& module, ModuleShape shape) {
    shape.is_transposed = spec.linears_are_transposed;
    if (shape.is_transposed) std::ranges::reverse(shape.weight);
    visit(path, module, shape);
  };
  visit_mixer_modules(spec, of, layer, prefix, visit_linear);
  if (of.experts)
    visit_expert_modules(spec, of, layer, prefix, visit);
  else
    visit_mlp_modules(spec, of.mlp, layer, prefix, visit_linear);
  visit_layer_norms(spec, of, layer, prefix, visit);
  if (of.cross) visit_cross_modules(spec, of, layer, prefix, visit);
  if (of.relative_bias && !of.relative_bias->is_first_layers)
    visit(prefix + spec.names.layer.relative_bias, layer.relative_bias,
          ModuleShape{{of.relative_bias->num_buckets, of.attention.num_heads}});
  visit_layer_embedding(spec, of, layer, prefix, visit);
}

}  // namespace kto::detail
