// SPDX-License-Identifier: Apache-2.0
// SmolLM3 (Hugging Face): llama with some layers without rotary positions, maybe with windows.
#pragma once

#include <algorithm>

#include "kto/model/families/family.hpp"

namespace kto::detail {

/// Takes rotary positions from the layers with 0 in no_rope_layers, or without that from every
/// no_rope_layer_interval-th.
inline void read_no_rope_layers(const ConfigReader& config, ModelSpec& spec) {
  const std::int64_t interval = config.positive("no_rope_layer_interval", 4);
  const Json listed = config.has("no_rope_layers") ? config.json.at("no_rope_layers") : Json::array();
  const bool is_list = listed.is_array() && (!config.has("no_rope_layers") || listed.size() >= spec.layers.size()) &&
                       std::ranges::all_of(listed, [](const Json& item) { return item == 0 || item == 1; });
  check(is_list, config.where, ": \"no_rope_layers\" must be a list of 0 or 1 for each of the ", spec.layers.size(),
        " layers, got ", shown(listed));
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    const bool has_rope = config.has("no_rope_layers") ? listed[i] == 1 : !is_nth(i, interval);
    if (!has_rope) spec.layers[i].attention.rope.reset();
  }
}

inline ModelSpec read_smollm3(const ConfigReader& config) {
  ModelSpec out = read_decoder(config, root_mean_square(config));
  read_no_rope_layers(config, out);
  if (config.has("layer_types")) {
    read_windows_by_layer(config, out);
  } else if (config.flag("use_sliding_window", false) && config.has("sliding_window")) {
    for (LayerSpec& layer : out.layers)
      if (!layer.attention.rope) layer.attention.window = config.positive("sliding_window");
  }
  read_biases(config, out);
  return out;
}

inline constexpr Family smollm3{
    .model_type = "smollm3",
    .defaults = R"({"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
                    "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 32768,
                    "pad_token_id": 128004, "tie_word_embeddings": true, "rope_theta": 2000000.0})",
    .read = read_smollm3};

}  // namespace kto::detail
