// SPDX-License-Identifier: Apache-2.0
// Phi-1 and Phi-2 (arXiv:2306.11644, arXiv:2309.05463): attention and feed-forward part in parallel behind one
// LayerNorm, biases everywhere, rotary positions on half of each head.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModuleNames phi_names() {
  ModuleNames out;
  out.last_norm = "model.final_layernorm";
  out.layer.attention.output = "self_attn.dense";
  out.layer.attention.q_norm = "self_attn.q_layernorm";
  out.layer.attention.k_norm = "self_attn.k_layernorm";
  out.layer.up = "mlp.fc1";
  out.layer.down = "mlp.fc2";
  return out;
}

inline ModelSpec read_phi(const ConfigReader& config) {
  const NormSpec norm = layer_norm(config.number("layer_norm_eps"), /*has_bias=*/true);
  ModelSpec out = read_decoder(config, norm);
  out.names = phi_names();
  out.head.has_bias = true;
  for (LayerSpec& layer : out.layers) {
    layer.is_parallel = true;
    layer.before_mlp.reset();
    layer.attention.qkv_bias = layer.attention.output_bias = layer.mlp.bias = true;
    layer.mlp.is_gated = false;
    if (config.flag("qk_layernorm", false)) layer.attention.qk_norm = QkNormSpec{.norm = norm};
  }
  return out;
}

inline constexpr Family phi{
    .model_type = "phi",
    .defaults = R"({"vocab_size": 51200, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24,
                    "hidden_act": "gelu_new", "max_position_embeddings": 2048, "layer_norm_eps": 1e-5,
                    "partial_rotary_factor": 0.5})",
    .read = read_phi,
    .lora_targets = R"(["q_proj", "v_proj", "fc1", "fc2"])"};

}  // namespace kto::detail
