// SPDX-License-Identifier: Apache-2.0
// ERNIE 4.5 (Baidu): llama with interleaved rotary pairs and one switch for all biases.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModelSpec read_ernie4_5(const ConfigReader& config) {
  ModelSpec out = read_decoder(config, root_mean_square(config));
  out.ropes[0].interleaved = true;
  for (LayerSpec& layer : out.layers)
    layer.attention.qkv_bias = layer.attention.output_bias = layer.mlp.bias = config.flag("use_bias", false);
  return out;
}

inline constexpr Family ernie4_5{
    .model_type = "ernie4_5",
    .defaults = R"({"vocab_size": 103424, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 18,
                    "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 128,
                    "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "pad_token_id": 0,
                    "tie_word_embeddings": true, "rope_theta": 500000.0})",
    .read = read_ernie4_5};

}  // namespace kto::detail
