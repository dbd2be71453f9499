// SPDX-License-Identifier: Apache-2.0
// Nemotron 4 and Minitron (arXiv:2402.16819): LayerNorm with 1 + weight, a feed-forward part without gate, and rotary
// positions on half of each head.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModelSpec read_nemotron(const ConfigReader& config) {
  NormSpec norm = layer_norm(config.number("norm_eps"), /*has_bias=*/true);
  norm.offset = 1;
  ModelSpec out = read_decoder(config, norm);
  read_biases(config, out);
  for (LayerSpec& layer : out.layers) layer.mlp.is_gated = false;
  return out;
}

inline constexpr Family nemotron{
    .model_type = "nemotron",
    .defaults = R"({"vocab_size": 256000, "hidden_size": 6144, "intermediate_size": 24576, "num_attention_heads": 48,
                    "hidden_act": "relu2", "max_position_embeddings": 4096, "norm_eps": 1e-5,
                    "partial_rotary_factor": 0.5})",
    .read = read_nemotron};

}  // namespace kto::detail
