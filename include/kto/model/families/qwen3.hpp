// SPDX-License-Identifier: Apache-2.0
// Qwen3 (arXiv:2505.09388): queries and keys are normalised per head, and windows are by layer.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModelSpec read_qwen3(const ConfigReader& config) {
  ModelSpec out = read_decoder(config, root_mean_square(config));
  read_windows_by_layer(config, out);
  for (LayerSpec& layer : out.layers) {
    layer.attention.qk_norm = QkNormSpec{.norm = *layer.before_attention};
    layer.attention.qkv_bias = layer.attention.output_bias = config.flag("attention_bias", false);
  }
  return out;
}

inline constexpr Family qwen3{.model_type = "qwen3",
                              .defaults =
                                  R"({"vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32,
                                      "head_dim": 128, "max_position_embeddings": 32768, "sliding_window": 4096})",
                              .read = read_qwen3,
                              .lora_targets = R"(["q_proj", "v_proj"])"};

}  // namespace kto::detail
