// SPDX-License-Identifier: Apache-2.0
// StarCoder2 (arXiv:2402.19173): LayerNorm, a feed-forward part without gate, biases, and maybe windows.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModelSpec read_starcoder2(const ConfigReader& config) {
  ModelSpec out = read_decoder(config, layer_norm(config.number("norm_epsilon"), /*has_bias=*/true));
  out.names.layer.up = "mlp.c_fc";
  out.names.layer.down = "mlp.c_proj";
  read_window_of_all(config, out, /*slides=*/true);
  for (LayerSpec& layer : out.layers) {
    layer.attention.qkv_bias = layer.attention.output_bias = layer.mlp.bias = config.flag("use_bias", true);
    layer.mlp.is_gated = false;
  }
  return out;
}

inline constexpr Family starcoder2{
    .model_type = "starcoder2",
    .defaults = R"({"vocab_size": 49152, "hidden_size": 3072, "intermediate_size": 12288, "num_hidden_layers": 30,
                    "num_attention_heads": 24, "num_key_value_heads": 2, "hidden_act": "gelu_pytorch_tanh",
                    "max_position_embeddings": 4096, "norm_epsilon": 1e-5, "tie_word_embeddings": true})",
    .read = read_starcoder2};

}  // namespace kto::detail
