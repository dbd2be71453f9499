// SPDX-License-Identifier: Apache-2.0
// The modules of a decoder that have parameters, under transformers' names, and the one traversal of them. Naming,
// adapters, freezing, casting, merging and saving are folds over this traversal (folds.hpp).
#pragma once

#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "kto/model/spec.hpp"
#include "kto/nn/linear.hpp"

namespace kto {

// Shapes: D width, V vocabulary.

struct Norm {
  Tensor weight_D;
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
  std::optional<LoraWeights> lora = std::nullopt;
  std::optional<TrainedRows> rows = std::nullopt;
};

struct DecoderLayer {
  Linear q_proj, k_proj, v_proj, o_proj;
  Norm q_norm, k_norm;  ///< undefined unless AttentionSpec::qk_norm
  Linear gate_proj, up_proj, down_proj;
  Norm input_layernorm, post_attention_layernorm;
};

/// The shapes of a module's parameters.
struct ModuleShape {
  std::vector<std::int64_t> weight;
  bool has_bias = false;
};

namespace detail {

template <class Module, class Kind>
inline constexpr bool is_a = std::is_same_v<std::remove_cvref_t<Module>, Kind>;

/// Calls visit(path, module, ModuleShape) for the modules of a layer: Linear or Norm.
template <class Layer, class Visit>
void visit_layer_modules(const ModelSpec& spec, const LayerSpec& of, Layer& layer, const std::string& prefix,
                         const Visit& visit) {
  const AttentionSpec& attention = of.attention;
  const std::int64_t D = spec.hidden_size, M = of.mlp.intermediate_size, d = attention.head_dim,
                     Hd = attention.num_heads * d, Kd = attention.num_kv_heads * d;
  visit(prefix + "self_attn.q_proj", layer.q_proj, ModuleShape{{Hd, D}, attention.qkv_bias});
  visit(prefix + "self_attn.k_proj", layer.k_proj, ModuleShape{{Kd, D}, attention.qkv_bias});
  visit(prefix + "self_attn.v_proj", layer.v_proj, ModuleShape{{Kd, D}, attention.qkv_bias});
  visit(prefix + "self_attn.o_proj", layer.o_proj, ModuleShape{{D, Hd}, attention.output_bias});
  visit(prefix + "mlp.gate_proj", layer.gate_proj, ModuleShape{{M, D}, of.mlp.bias});
  visit(prefix + "mlp.up_proj", layer.up_proj, ModuleShape{{M, D}, of.mlp.bias});
  visit(prefix + "mlp.down_proj", layer.down_proj, ModuleShape{{D, M}, of.mlp.bias});
  if (attention.qk_norm) {
    visit(prefix + "self_attn.q_norm", layer.q_norm, ModuleShape{{d}});
    visit(prefix + "self_attn.k_norm", layer.k_norm, ModuleShape{{d}});
  }
  visit(prefix + "input_layernorm", layer.input_layernorm, ModuleShape{{D}});
  visit(prefix + "post_attention_layernorm", layer.post_attention_layernorm, ModuleShape{{D}});
}

/// Calls visit(name, tensor, shape) for the parameters of a module.
template <class Module, class Visit>
void visit_module_parameters(const std::string& path, Module& module, const ModuleShape& shape, const Visit& visit) {
  if constexpr (is_a<Module, Linear>) {
    visit(path + ".weight", module.weight_OI, shape.weight);
    if (shape.has_bias) visit(path + ".bias", module.bias_O, std::vector<std::int64_t>{shape.weight[0]});
  } else if constexpr (is_a<Module, Norm>) {
    visit(path + ".weight", module.weight_D, shape.weight);
  } else {
    visit(path + ".weight", module.weight_VD, shape.weight);
  }
}

/// Calls visit(name, tensor) for the adapter tensors on the module at `path`, under PEFT's names.
template <class Module, class Visit>
void visit_module_lora(const std::string& path, Module& module, const Visit& visit) {
  if constexpr (!is_a<Module, Norm>) {
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
  const ModuleShape table{{spec.vocab_size, spec.hidden_size}};
  visit("model.embed_tokens", decoder.embed_tokens, table);
  for (std::size_t i = 0; i < decoder.layers.size(); ++i)
    detail::visit_layer_modules(spec, spec.layers[i], decoder.layers[i], "model.layers." + std::to_string(i) + ".",
                                visit);
  visit("model.norm", decoder.norm, ModuleShape{{spec.hidden_size}});
  visit("lm_head", decoder.lm_head, table);
}

}  // namespace kto
