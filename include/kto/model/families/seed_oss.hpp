// SPDX-License-Identifier: Apache-2.0
// Seed-OSS (ByteDance): llama with separate switches for the biases of the attention.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModelSpec read_seed_oss(const ConfigReader& config) {
  ModelSpec out = read_decoder(config, root_mean_square(config));
  for (LayerSpec& layer : out.layers) {
    layer.attention.qkv_bias = config.flag("attention_bias", true);
    layer.attention.output_bias = config.flag("attention_out_bias", false);
    layer.mlp.bias = config.flag("mlp_bias", false);
  }
  return out;
}

inline constexpr Family seed_oss{
    .model_type = "seed_oss",
    .defaults = R"({"vocab_size": 155136, "intermediate_size": 27648, "num_hidden_layers": 64,
                    "num_attention_heads": 80, "num_key_value_heads": 8, "head_dim": 128,
                    "max_position_embeddings": 524288, "pad_token_id": 1, "attention_dropout": 0.1})",
    .read = read_seed_oss};

}  // namespace kto::detail
