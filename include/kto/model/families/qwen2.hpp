// SPDX-License-Identifier: Apache-2.0
// Qwen2 and Qwen2.5 (arXiv:2407.10671): llama with biases on queries, keys and values, and windows by layer.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModelSpec read_qwen2(const ConfigReader& config) {
  ModelSpec out = read_decoder(config, root_mean_square(config));
  read_windows_by_layer(config, out);
  for (LayerSpec& layer : out.layers) layer.attention.qkv_bias = true;
  return out;
}

inline constexpr Family qwen2{.model_type = "qwen2",
                              .defaults =
                                  R"({"vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32,
                                      "max_position_embeddings": 32768, "sliding_window": 4096})",
                              .read = read_qwen2,
                              .lora_targets = R"(["q_proj", "v_proj"])"};

}  // namespace kto::detail
