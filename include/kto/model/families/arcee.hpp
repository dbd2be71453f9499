// SPDX-License-Identifier: Apache-2.0
// Arcee's AFM: llama with a feed-forward part without gate.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModelSpec read_arcee(const ConfigReader& config) {
  ModelSpec out = read_decoder(config, root_mean_square(config));
  read_biases(config, out);
  for (LayerSpec& layer : out.layers) layer.mlp.is_gated = false;
  return out;
}

inline constexpr Family arcee{
    .model_type = "arcee",
    .defaults = R"({"vocab_size": 32000, "hidden_size": 2560, "intermediate_size": 18432, "hidden_act": "relu2",
                    "max_position_embeddings": 4096, "rms_norm_eps": 1e-5})",
    .read = read_arcee};

}  // namespace kto::detail
