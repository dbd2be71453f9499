// SPDX-License-Identifier: Apache-2.0
// Apertus (arXiv:2509.14233): norms of queries and keys, and a feed-forward part without gate whose activation has
// trained parameters.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModelSpec read_apertus(const ConfigReader& config) {
  Json json = with_rope(config, R"({"rope_type": "llama3", "rope_theta": 12000000.0, "factor": 8.0,
      "original_max_position_embeddings": 8192, "low_freq_factor": 1.0, "high_freq_factor": 4.0})");
  const bool is_xielu = config.text("hidden_act") == "xielu";
  if (is_xielu) json["hidden_act"] = "silu";
  const NormSpec norm = root_mean_square(config);
  ModelSpec out = read_decoder({json, config.where}, norm);
  out.names.layer.before_attention = "attention_layernorm";
  out.names.layer.before_mlp = "feedforward_layernorm";
  for (LayerSpec& layer : out.layers) {
    layer.attention.qk_norm = QkNormSpec{.norm = norm};
    layer.attention.qkv_bias = layer.attention.output_bias = config.flag("attention_bias", false);
    layer.mlp.is_gated = false;
    layer.mlp.is_xielu = is_xielu;
  }
  return out;
}

inline constexpr Family apertus{.model_type = "apertus",
                                .defaults = R"({"vocab_size": 131072, "intermediate_size": 14336, "hidden_act": "xielu",
                    "max_position_embeddings": 65536, "rms_norm_eps": 1e-5, "pad_token_id": 3,
                    "rope_theta": 12000000.0})",
                                .read = read_apertus};

}  // namespace kto::detail
