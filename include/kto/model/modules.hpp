// SPDX-License-Identifier: Apache-2.0
// The one traversal of a decoder's modules and their parameters, under transformers' names. Naming, adapters, freezing,
// casting, merging and saving are folds over it (folds.hpp).
#pragma once

#include <string>
#include <vector>

#include "kto/model/layer_modules.hpp"

namespace kto {

namespace detail {

/// The same for the decoder's part of the layers' embeddings, if it has them.
template <class AnyDecoder, class Visit>
void visit_layer_embeddings(AnyDecoder& decoder, const Visit& visit) {
  const ModelSpec& spec = decoder.spec;
  if (spec.layers.empty() || !spec.layers[0].embedding) return;
  const LayerEmbeddingSpec& of = *spec.layers[0].embedding;
  const std::string prefix = spec.names.layers.substr(0, spec.names.layers.rfind("layers."));
  const std::int64_t all = std::ssize(spec.layers) * of.width;
  visit(prefix + "embed_tokens_per_layer", decoder.layer_embeddings.table, ModuleShape{{of.vocab_size, all}});
  visit(prefix + "per_layer_model_projection", decoder.layer_embeddings.projection,
        ModuleShape{{all, spec.hidden_size}});
  visit(prefix + "per_layer_projection_norm", decoder.layer_embeddings.norm, norm_shape(of.norm, {of.width}));
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
  } else if constexpr (is_a<Module, CausalConv>) {
    visit_both(module.weight_C1K, module.bias_C);
  } else if constexpr (is_a<Module, DeltaDecay>) {
    visit(path + ".dt_bias", module.dt_bias_H, shape.weight);
    visit(path + ".A_log", module.a_log_H, shape.weight);
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

/// Calls visit(path, module, ModuleShape) for what stands between the embedding and the head.
template <class AnyDecoder, class Visit>
void visit_stack_modules(AnyDecoder& decoder, const Visit& visit) {
  const ModelSpec& spec = decoder.spec;
  const ModuleNames& names = spec.names;
  if (spec.positions) visit(names.positions, decoder.positions, ModuleShape{{spec.positions->count, spec.hidden_size}});
  if (spec.embedding_norm)
    visit(names.embedding_norm, decoder.embedding_norm, norm_shape(*spec.embedding_norm, {spec.hidden_size}));
  visit_layer_embeddings(decoder, visit);
  for (std::size_t i = 0; i < decoder.layers.size(); ++i)
    visit_layer_modules(spec, spec.layers[i], decoder.layers[i], names.layers + std::to_string(i) + ".", visit);
  if (spec.last_norm) visit(names.last_norm, decoder.norm, norm_shape(*spec.last_norm, {spec.hidden_size}));
}

}  // namespace detail

/// Calls visit(path, module, ModuleShape) for all modules of a decoder that have parameters: the Embedding, those of
/// its encoder and of each layer, the final Norm, the OutputHead. This is the only list of them.
template <class AnyDecoder, class Visit>
void visit_modules(AnyDecoder& decoder, const Visit& visit) {
  const ModelSpec& spec = decoder.spec;
  const ModuleNames& names = spec.names;
  const std::vector<std::int64_t> table{spec.vocab_size, spec.hidden_size};
  visit(names.embedding, decoder.embed_tokens, ModuleShape{table});
  for (auto& encoder : decoder.encoder) detail::visit_stack_modules(encoder, visit);
  detail::visit_stack_modules(decoder, visit);
  visit(names.head, decoder.lm_head, ModuleShape{table, spec.head.has_bias});
}

}  // namespace kto
