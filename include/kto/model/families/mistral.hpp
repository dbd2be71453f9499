// SPDX-License-Identifier: Apache-2.0
// Mistral (arXiv:2310.06825): llama with a window in every layer.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModelSpec read_mistral(const ConfigReader& config) {
  ModelSpec out = read_decoder(config, root_mean_square(config));
  read_window_of_all(config, out, /*slides=*/true);
  return out;
}

inline constexpr Family mistral{
    .model_type = "mistral",
    .defaults = R"({"vocab_size": 32000, "intermediate_size": 14336, "num_key_value_heads": 8,
                    "max_position_embeddings": 131072, "sliding_window": 4096})",
    .read = read_mistral,
    .lora_targets = R"(["q_proj", "v_proj"])"};

}  // namespace kto::detail
