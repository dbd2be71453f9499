// SPDX-License-Identifier: Apache-2.0
// Ministral 8B (ministral): mistral with windows by layer; Ministral 3 (ministral3): mistral with queries that grow with
// the position.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModelSpec read_ministral(const ConfigReader& config) {
  ModelSpec out = read_decoder(config, root_mean_square(config));
  const bool has_window = config.has("sliding_window");
  set_windows(config, out, read_layer_types(config, out, [&](std::size_t) { return has_window; }));
  return out;
}

inline ModelSpec read_ministral3(const ConfigReader& config) {
  const Json json = with_rope(config, R"({"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 16.0,
      "original_max_position_embeddings": 16384, "beta_fast": 32.0, "beta_slow": 1.0, "mscale_all_dim": 1.0,
      "mscale": 1.0, "llama_4_scaling_beta": 0.1})");
  const ConfigReader completed{json, config.where};
  ModelSpec out = read_decoder(completed, root_mean_square(completed));
  read_window_of_all(completed, out, /*slides=*/true);
  const RopeValues rope = read_rope_values(completed);
  const double beta = rope.reader().number("llama_4_scaling_beta", 0);
  if (beta == 0) return out;
  for (LayerSpec& layer : out.layers)
    layer.attention.query_growth = QueryGrowth{.beta = beta, .length = out.ropes[0].original_max_positions};
  return out;
}

inline constexpr Family ministral{
    .model_type = "ministral",
    .defaults = R"({"vocab_size": 32000, "intermediate_size": 14336, "num_key_value_heads": 8,
                    "max_position_embeddings": 131072, "sliding_window": 4096})",
    .read = read_ministral};
inline constexpr Family ministral3{
    .model_type = "ministral3",
    .defaults = R"({"vocab_size": 131072, "intermediate_size": 14336, "num_hidden_layers": 34,
                    "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262144,
                    "rms_norm_eps": 1e-5, "pad_token_id": 11})",
    .read = read_ministral3};

}  // namespace kto::detail
