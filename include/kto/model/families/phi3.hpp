// SPDX-License-Identifier: Apache-2.0
// Phi-3 and Phi-4 (arXiv:2404.14219): llama with fused projections, maybe windows and longrope.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModelSpec read_phi3(const ConfigReader& config) {
  ModelSpec out = read_decoder(config, root_mean_square(config));
  read_window_of_all(config, out, /*slides=*/true);
  for (LayerSpec& layer : out.layers) {
    layer.attention.layout = QkvLayout::stacked;
    layer.mlp.is_fused = true;
  }
  return out;
}

inline constexpr Family phi3{
    .model_type = "phi3",
    .defaults =
        R"({"vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "max_position_embeddings": 4096,
                    "rms_norm_eps": 1e-5, "pad_token_id": 32000, "original_max_position_embeddings": 4096,
                    "partial_rotary_factor": 1.0})",
    .read = read_phi3};

}  // namespace kto::detail
