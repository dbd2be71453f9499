// SPDX-License-Identifier: Apache-2.0
// Helium (Kyutai): llama with interleaved rotary pairs.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModelSpec read_helium(const ConfigReader& config) {
  ModelSpec out = read_decoder(config, root_mean_square(config));
  out.ropes[0].interleaved = true;
  for (LayerSpec& layer : out.layers) {
    layer.attention.qkv_bias = config.flag("attention_bias", false);
    layer.mlp.bias = config.flag("mlp_bias", false);
  }
  return out;
}

inline constexpr Family helium{
    .model_type = "helium",
    .defaults = R"({"vocab_size": 48000, "hidden_size": 2560, "intermediate_size": 7040, "num_hidden_layers": 24,
                    "num_attention_heads": 20, "head_dim": 128, "max_position_embeddings": 4096, "rms_norm_eps": 1e-8,
                    "pad_token_id": 3, "rope_theta": 100000.0})",
    .read = read_helium};

}  // namespace kto::detail
