// SPDX-License-Identifier: Apache-2.0
// OLMo (arXiv:2402.00838): llama with LayerNorm without parameters, and clamped projections.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModelSpec read_olmo(const ConfigReader& config) {
  NormSpec norm = layer_norm(1e-5, /*has_bias=*/false);
  norm.has_weight = false;
  ModelSpec out = read_decoder(config, norm);
  for (LayerSpec& layer : out.layers) {
    layer.attention.qkv_bias = layer.attention.output_bias = config.flag("attention_bias", false);
    if (config.has("clip_qkv")) layer.attention.clip_qkv = config.positive_number("clip_qkv");
  }
  return out;
}

inline constexpr Family olmo{
    .model_type = "olmo",
    .defaults =
        R"({"vocab_size": 50304, "intermediate_size": 11008, "max_position_embeddings": 2048, "pad_token_id": 1})",
    .read = read_olmo};

}  // namespace kto::detail
