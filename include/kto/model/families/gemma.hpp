// SPDX-License-Identifier: Apache-2.0
// Gemma (arXiv:2403.08295): norms with 1 + weight, and embeddings scaled by the root of the width.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModelSpec read_gemma(const ConfigReader& config) {
  ModelSpec out = read_decoder(config, root_mean_square(config, /*offset=*/1));
  check(!config.flag("use_bidirectional_attention", false), config.where,
        ": \"use_bidirectional_attention\": true is not supported");
  out.embedding_scale = std::sqrt(static_cast<float>(out.hidden_size));  // as transformers holds it
  for (LayerSpec& layer : out.layers)
    layer.attention.qkv_bias = layer.attention.output_bias = config.flag("attention_bias", false);
  return out;
}

/// What its first files call gelu is the approximation.
inline ModelSpec read_first_gemma(const ConfigReader& config) {
  ModelSpec out = read_gemma(config);
  if (config.text("hidden_act") == "gelu")
    for (LayerSpec& layer : out.layers) layer.mlp.activation = Activation::gelu_tanh;
  return out;
}

inline constexpr Family gemma{
    .model_type = "gemma",
    .defaults = R"({"vocab_size": 256000, "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28,
                    "num_attention_heads": 16, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
                    "max_position_embeddings": 8192, "pad_token_id": 0, "tie_word_embeddings": true})",
    .read = read_first_gemma,
    .lora_targets = R"(["q_proj", "v_proj"])"};

}  // namespace kto::detail
