// SPDX-License-Identifier: Apache-2.0
// GLM-4 (arXiv:2406.12793; model_type glm, and glm4 for its successors): interleaved rotary pairs on half of each head,
// gate and up projection in one; glm4 also has norms after each part.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModelSpec read_glm(const ConfigReader& config) {
  ModelSpec out = read_decoder(config, root_mean_square(config));
  out.ropes[0].interleaved = true;
  for (LayerSpec& layer : out.layers) {
    layer.attention.qkv_bias = config.flag("attention_bias", true);
    layer.mlp.is_fused = true;
  }
  return out;
}

inline ModelSpec read_glm4(const ConfigReader& config) {
  ModelSpec out = read_glm(config);
  out.names.layer.after_attention = "post_self_attn_layernorm";
  out.names.layer.after_mlp = "post_mlp_layernorm";
  for (LayerSpec& layer : out.layers) layer.after_attention = layer.after_mlp = out.last_norm;
  return out;
}

inline constexpr const char* glm_defaults =
    R"({"vocab_size": 151552, "intermediate_size": 13696, "num_hidden_layers": 40, "num_key_value_heads": 2,
        "head_dim": 128, "max_position_embeddings": 131072, "rms_norm_eps": 1.5625e-7, "pad_token_id": 151329,
        "partial_rotary_factor": 0.5})";
inline constexpr Family glm{.model_type = "glm", .defaults = glm_defaults, .read = read_glm};
inline constexpr Family glm4{.model_type = "glm4", .defaults = glm_defaults, .read = read_glm4};

}  // namespace kto::detail
