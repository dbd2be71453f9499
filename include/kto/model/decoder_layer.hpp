// SPDX-License-Identifier: Apache-2.0
// One layer of a decoder: its parts, their names in transformers and PEFT, and its forward pass.
#pragma once

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "kto/collate/batch.hpp"
#include "kto/model/config.hpp"
#include "kto/nn/attention.hpp"
#include "kto/nn/blocks.hpp"
#include "kto/nn/rotate.hpp"

namespace kto {

// Shapes: N tokens of a batch in one row, D width, H heads, K key/value heads, d head dimension.

struct DecoderLayer {
  Linear q_proj, k_proj, v_proj, o_proj;
  Tensor q_norm_d, k_norm_d;  ///< undefined in families without them
  Linear gate_proj, up_proj, down_proj;
  Tensor input_norm_D, post_attention_norm_D;
};

/// What all layers of a decoder share in one forward pass.
struct LayerContext {
  ModelConfig config;
  at::ScalarType compute;
  RopeTables rope;
  std::vector<Segment> segments;
};

/// One layer: states [N, D] in, states out, in float32 or wider. Segments' prefixes are of `prefix`, or of the row
/// itself when that is empty. Where `kept` is given, it gets the row's keys and values, without gradient.
inline Tensor layer_forward(const LayerContext& context, const DecoderLayer& layer, std::optional<std::int64_t> window,
                            const Tensor& hidden_ND, const KeysValues& prefix = {}, KeysValues* kept = nullptr) {
  const ModelConfig& config = context.config;
  const at::ScalarType compute = context.compute;
  const double eps = config.rms_norm_eps, scale = 1 / std::sqrt(static_cast<double>(config.head_dim));
  const auto heads = [&](const Tensor& x) { return x.unflatten(-1, {-1, config.head_dim}); };
  const auto turned = [&](const Tensor& x_NHd, const Tensor& norm_d) {
    const Tensor normed = config.qk_norm ? rms_norm(x_NHd, norm_d, eps, wide_type(compute)) : x_NHd;
    return apply_rope(normed, context.rope, compute);
  };

  const auto qkv =
      normed_linears(hidden_ND, layer.input_norm_D, eps, compute, {&layer.q_proj, &layer.k_proj, &layer.v_proj});
  const Tensor q_NHd = turned(heads(qkv[0]), layer.q_norm_d), k_NKd = turned(heads(qkv[1]), layer.k_norm_d),
               v_NKd = heads(qkv[2]);
  if (kept != nullptr) *kept = {k_NKd.detach(), v_NKd.detach()};
  const Tensor attended_NHd = causal_attention(q_NHd, k_NKd, v_NKd, context.segments, window, scale, prefix);
  const auto middle_gate_up =
      add_normed_linears(hidden_ND, layer.o_proj(attended_NHd.flatten(-2)), layer.post_attention_norm_D, eps, compute,
                         {&layer.gate_proj, &layer.up_proj});
  return middle_gate_up[0] + gated_down(config.activation, middle_gate_up[1], middle_gate_up[2], layer.down_proj);
}

namespace detail {

/// Calls visit(path, linear, outputs, inputs, has bias) for every linear layer of a decoder layer.
template <class Layer, class Visit>
void visit_linears(const ModelConfig& config, Layer& layer, const std::string& prefix, const Visit& visit) {
  const std::int64_t D = config.hidden_size, M = config.intermediate_size, Hd = config.num_heads * config.head_dim,
                     Kd = config.num_kv_heads * config.head_dim;
  visit(prefix + "self_attn.q_proj", layer.q_proj, Hd, D, config.qkv_bias);
  visit(prefix + "self_attn.k_proj", layer.k_proj, Kd, D, config.qkv_bias);
  visit(prefix + "self_attn.v_proj", layer.v_proj, Kd, D, config.qkv_bias);
  visit(prefix + "self_attn.o_proj", layer.o_proj, D, Hd, config.output_bias);
  visit(prefix + "mlp.gate_proj", layer.gate_proj, M, D, config.mlp_bias);
  visit(prefix + "mlp.up_proj", layer.up_proj, M, D, config.mlp_bias);
  visit(prefix + "mlp.down_proj", layer.down_proj, D, M, config.mlp_bias);
}

/// Calls visit(name, tensor, shape) for every parameter that `config` gives a layer.
template <class Layer, class Visit>
void visit_layer(const ModelConfig& config, Layer& layer, const std::string& prefix, const Visit& visit) {
  using Shape = std::vector<std::int64_t>;
  visit_linears(config, layer, prefix,
                [&](const std::string& path, auto& linear, std::int64_t out, std::int64_t in, bool bias) {
                  visit(path + ".weight", linear.weight_OI, Shape{out, in});
                  if (bias) visit(path + ".bias", linear.bias_O, Shape{out});
                });
  if (config.qk_norm) {
    visit(prefix + "self_attn.q_norm.weight", layer.q_norm_d, Shape{config.head_dim});
    visit(prefix + "self_attn.k_norm.weight", layer.k_norm_d, Shape{config.head_dim});
  }
  visit(prefix + "input_layernorm.weight", layer.input_norm_D, Shape{config.hidden_size});
  visit(prefix + "post_attention_layernorm.weight", layer.post_attention_norm_D, Shape{config.hidden_size});
}

/// Calls visit(name, tensor) for the tensors of an adapter of the module at `path`, under PEFT's names.
template <class Lora, class Visit>
void visit_lora(Lora& lora, const std::string& path, const Visit& visit, bool of_embedding = false) {
  visit(path + (of_embedding ? ".lora_embedding_A" : ".lora_A.weight"), lora.a_RI);
  visit(path + (of_embedding ? ".lora_embedding_B" : ".lora_B.weight"), lora.b_OR);
  if (lora.b_bias_O.defined()) visit(path + ".lora_B.bias", lora.b_bias_O);
  if (lora.magnitude_O.defined()) visit(path + ".lora_magnitude_vector", lora.magnitude_O);
}

/// The same for all adapters of a layer.
template <class Layer, class Visit>
void visit_layer_loras(const ModelConfig& config, Layer& layer, const std::string& prefix, const Visit& visit) {
  visit_linears(config, layer, prefix, [&](const std::string& path, auto& linear, auto...) {
    if (linear.lora) visit_lora(*linear.lora, path, visit);
  });
}

/// Whether a layer's output is drawn at random where a gradient is asked for.
inline bool drops(const ModelConfig& config, const DecoderLayer& layer) {
  bool out = false;
  visit_linears(config, layer, "", [&](const std::string&, const Linear& linear, auto...) {
    out = out || (linear.lora && linear.lora->dropout > 0);
  });
  return out;
}

inline std::vector<Tensor> trained_parameters(const ModelConfig& config, const DecoderLayer& layer) {
  std::vector<Tensor> out;
  const auto add = [&](const std::string&, const Tensor& tensor, const auto&...) {
    if (tensor.requires_grad()) out.push_back(tensor);
  };
  visit_layer(config, layer, "", add);
  visit_layer_loras(config, layer, "", add);
  return out;
}

}  // namespace detail

}  // namespace kto
