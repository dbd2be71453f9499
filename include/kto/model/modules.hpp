// SPDX-License-Identifier: Apache-2.0
// The modules of a decoder that have parameters, under transformers' names, and the one traversal of them. Naming,
// adapters, freezing, casting, merging and saving are folds over this traversal (folds.hpp).
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "kto/model/spec.hpp"
#include "kto/nn/experts.hpp"
#include "kto/nn/linear.hpp"
#include "kto/nn/xielu.hpp"

namespace kto {

// Shapes: D width, V vocabulary.

struct Norm {
  Tensor weight_D, bias_D;  ///< undefined unless the NormSpec has them
};

/// The embedding table.
struct Embedding {
  Tensor weight_VD;
  std::optional<LoraWeights> lora = std::nullopt;
  std::optional<TrainedRows> rows = std::nullopt;  ///< also used by a tied head without rows of its own
};

/// The output head. A tied head has no weight of its own, unless it is held in another type than the embedding.
struct OutputHead {
  Tensor weight_VD;
  Tensor bias_V = {};  ///< undefined unless HeadSpec::has_bias
  std::optional<LoraWeights> lora = std::nullopt;
  std::optional<TrainedRows> rows = std::nullopt;
};

/// Learned positions.
struct PositionTable {
  Tensor weight_PD;
};

/// The scores of an attention that stand for no token, one a head.
struct Sinks {
  Tensor score_H;
};

/// The router of a layer's experts. The correction of its choice is a constant.
struct Router {
  Tensor weight_ED, bias_E, correction_E;
};

/// What a LayerSpec does not have stays undefined.
struct DecoderLayer {
  Linear q_proj, k_proj, v_proj, qkv_proj, o_proj;
  Norm q_norm, k_norm;
  Linear q_a_proj, q_b_proj, kv_a_proj, kv_b_proj;
  Norm q_a_norm, kv_a_norm;
  Sinks sinks;
  Linear gate_proj, up_proj, gate_up_proj, down_proj;
  Xielu xielu;
  Router router;
  Experts experts;
  Linear shared_weight;
  Norm before_attention, after_attention, before_mlp, after_mlp;
};

/// What the parameters of a module look like.
struct ModuleShape {
  std::vector<std::int64_t> weight;
  bool has_bias = false;
  bool has_weight = true;
  bool is_transposed = false;   ///< the weight is [inputs, outputs]
  bool has_correction = false;  ///< of a Router
};

namespace detail {

template <class Module, class Kind>
inline constexpr bool is_a = std::is_same_v<std::remove_cvref_t<Module>, Kind>;

/// Modules that an adapter may be on.
template <class Module>
concept TakesLora = requires(Module& module) { module.lora; };

inline ModuleShape norm_shape(const NormSpec& norm, std::vector<std::int64_t> weight) {
  return {std::move(weight), norm.has_bias, norm.has_weight};
}

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
  } else if (of.layout == QkvLayout::separate) {
    visit(prefix + names.q, layer.q_proj, ModuleShape{{Hd, D}, of.qkv_bias});
    visit(prefix + names.k, layer.k_proj, ModuleShape{{Kd, D}, of.qkv_bias});
    visit(prefix + names.v, layer.v_proj, ModuleShape{{Kd, D}, of.qkv_bias});
  } else {
    visit(prefix + names.qkv, layer.qkv_proj, ModuleShape{{Hd + 2 * Kd, D}, of.qkv_bias});
  }
  visit(prefix + names.output, layer.o_proj, ModuleShape{{D, of.num_heads * value_dim(of)}, of.output_bias});
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
  if (of.attention.has_sinks) visit(prefix + names.attention.sinks, layer.sinks, ModuleShape{{of.attention.num_heads}});
  if (of.attention.qk_norm) {
    const QkNormSpec& norms = *of.attention.qk_norm;
    const auto shape = [&](std::int64_t num_heads) {
      const std::int64_t d = of.attention.head_dim;
      return norm_shape(norms.norm, norms.by_head
                                        ? std::vector<std::int64_t>{num_heads, d}
                                        : std::vector<std::int64_t>{norms.over_all_heads ? num_heads * d : d});
    };
    visit(prefix + names.attention.q_norm, layer.q_norm, shape(of.attention.num_heads));
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

/// Calls visit(path, module, ModuleShape) for the modules of a layer: Linear, Norm, Xielu, Sinks, Router or Experts.
template <class Layer, class Visit>
void visit_layer_modules(const ModelSpec& spec, const LayerSpec& of, Layer& layer, const std::string& prefix,
                         const Visit& visit) {
  const auto visit_linear = [&](const std::string& path, auto& module, ModuleShape shape) {
    shape.is_transposed = spec.linears_are_transposed;
    if (shape.is_transposed) std::ranges::reverse(shape.weight);
    visit(path, module, shape);
  };
  visit_attention_modules(spec, of.attention, layer, prefix, visit_linear);
  if (of.experts)
    visit_expert_modules(spec, of, layer, prefix, visit);
  else
    visit_mlp_modules(spec, of.mlp, layer, prefix, visit_linear);
  visit_layer_norms(spec, of, layer, prefix, visit);
}

/// Calls visit(name, tensor, shape) for the parameters of all experts of a layer.
template <class AnyExperts, class Visit>
void visit_expert_parameters(const std::string& path, AnyExperts& experts, const ModuleShape& shape,
                             const Visit& visit) {
  using Shape = std::vector<std::int64_t>;
  const std::int64_t E = shape.weight[0], M = shape.weight[1], D = shape.weight[2];
  visit(path + ".gate_up_proj", experts.gate_up, shape.is_transposed ? Shape{E, D, 2 * M} : Shape{E, 2 * M, D});
  if (shape.has_bias) visit(path + ".gate_up_proj_bias", experts.gate_up_bias_EO, Shape{E, 2 * M});
  visit(path + ".down_proj", experts.down, shape.is_transposed ? Shape{E, M, D} : Shape{E, D, M});
  if (shape.has_bias) visit(path + ".down_proj_bias", experts.down_bias_ED, Shape{E, D});
}

/// Calls visit(name, tensor, shape) for the parameters of a module.
template <class Module, class Visit>
void visit_module_parameters(const std::string& path, Module& module, const ModuleShape& shape, const Visit& visit) {
  const auto visit_both = [&](auto& weight, auto& bias) {
    if (shape.has_weight) visit(path + ".weight", weight, shape.weight);
    if (shape.has_bias)
      visit(path + ".bias", bias, std::vector<std::int64_t>{shape.is_transposed ? shape.weight[1] : shape.weight[0]});
  };
  if constexpr (is_a<Module, Linear>) {
    visit_both(module.weight_OI, module.bias_O);
  } else if constexpr (is_a<Module, Norm>) {
    visit_both(module.weight_D, module.bias_D);
  } else if constexpr (is_a<Module, OutputHead>) {
    visit_both(module.weight_VD, module.bias_V);
  } else if constexpr (is_a<Module, Xielu>) {
    visit(path + ".alpha_p", module.alpha_p, shape.weight);
    visit(path + ".alpha_n", module.alpha_n, shape.weight);
  } else if constexpr (is_a<Module, Sinks>) {
    visit(path, module.score_H, shape.weight);
  } else if constexpr (is_a<Module, Router>) {
    visit_both(module.weight_ED, module.bias_E);
  } else if constexpr (is_a<Module, Experts>) {
    visit_expert_parameters(path, module, shape, visit);
  } else if constexpr (is_a<Module, PositionTable>) {
    visit(path + ".weight", module.weight_PD, shape.weight);
  } else {
    visit(path + ".weight", module.weight_VD, shape.weight);
  }
}

/// Calls visit(name, tensor) for the adapter tensors on the module at `path`, under PEFT's names.
template <class Module, class Visit>
void visit_module_lora(const std::string& path, Module& module, const Visit& visit) {
  if constexpr (TakesLora<Module>) {
    if (module.lora) {
      auto& lora = *module.lora;
      constexpr bool of_embedding = is_a<Module, kto::Embedding>;
      visit(path + (of_embedding ? ".lora_embedding_A" : ".lora_A.weight"), lora.a_RI);
      visit(path + (of_embedding ? ".lora_embedding_B" : ".lora_B.weight"), lora.b_OR);
      if (lora.b_bias_O.defined()) visit(path + ".lora_B.bias", lora.b_bias_O);
      if (lora.magnitude_O.defined()) visit(path + ".lora_magnitude_vector", lora.magnitude_O);
    }
    if constexpr (!is_a<Module, Linear>)
      if (module.rows) visit(path + ".token_adapter.trainable_tokens_delta", module.rows->rows_KD);
  }
}

}  // namespace detail

/// Calls visit(path, module, ModuleShape) for all modules of a decoder that have parameters: the Embedding, those of
/// each layer, the final Norm, the OutputHead. This is the only list of them.
template <class AnyDecoder, class Visit>
void visit_modules(AnyDecoder& decoder, const Visit& visit) {
  const ModelSpec& spec = decoder.spec;
  const ModuleNames& names = spec.names;
  const std::vector<std::int64_t> table{spec.vocab_size, spec.hidden_size};
  visit(names.embedding, decoder.embed_tokens, ModuleShape{table});
  if (spec.positions) visit(names.positions, decoder.positions, ModuleShape{{spec.positions->count, spec.hidden_size}});
  if (spec.embedding_norm)
    visit(names.embedding_norm, decoder.embedding_norm, detail::norm_shape(*spec.embedding_norm, {spec.hidden_size}));
  for (std::size_t i = 0; i < decoder.layers.size(); ++i)
    detail::visit_layer_modules(spec, spec.layers[i], decoder.layers[i], names.layers + std::to_string(i) + ".", visit);
  if (spec.last_norm) visit(names.last_norm, decoder.norm, detail::norm_shape(*spec.last_norm, {spec.hidden_size}));
  visit(names.head, decoder.lm_head, ModuleShape{table, spec.head.has_bias});
}

}  // namespace kto
