// SPDX-License-Identifier: Apache-2.0
// Granite 3 (arXiv:2405.04324 and its successors): llama with multipliers.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModelSpec read_granite(const ConfigReader& config) {
  ModelSpec out = read_decoder(config, root_mean_square(config));
  out.embedding_scale = config.number("embedding_multiplier", 1);
  out.head.scale = 1 / config.positive_number("logits_scaling", 1);
  read_biases(config, out);
  for (LayerSpec& layer : out.layers) {
    layer.attention.scale = config.number("attention_multiplier", 1);
    layer.residual_scale = config.number("residual_multiplier", 1);
  }
  return out;
}

inline constexpr Family granite{
    .model_type = "granite",
    .defaults = R"({"vocab_size": 32000, "intermediate_size": 11008, "max_position_embeddings": 2048})",
    .read = read_granite};

}  // namespace kto::detail
