// SPDX-License-Identifier: Apache-2.0
// Llama (arXiv:2302.13971 and its successors).
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModelSpec read_llama(const ConfigReader& config) {
  ModelSpec out = read_decoder(config, root_mean_square(config));
  read_window_of_all(config, out, /*slides=*/false);
  read_biases(config, out);
  return out;
}

inline constexpr Family llama{
    .model_type = "llama",
    .defaults = R"({"vocab_size": 32000, "intermediate_size": 11008, "max_position_embeddings": 2048})",
    .read = read_llama,
    .lora_targets = R"(["q_proj", "v_proj"])"};

}  // namespace kto::detail
