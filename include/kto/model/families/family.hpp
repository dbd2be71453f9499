// SPDX-License-Identifier: Apache-2.0
// A model family: its model_type, transformers 5.24's defaults for keys missing in config.json, and a function from
// config.json to the description. Free of LibTorch.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/model/detail/config_reader.hpp"
#include "kto/model/rope_config.hpp"
#include "kto/model/spec.hpp"

namespace kto::detail {

struct Family {
  std::string_view model_type;
  const char* defaults;  ///< JSON
  ModelSpec (*read)(const ConfigReader& config);
};

/// Reads the keys that llama-like decoders share. A family then adds its own features to the layers.
inline ModelSpec read_decoder(const ConfigReader& config) {
  ModelSpec out;
  out.model_type = config.text("model_type");
  out.vocab_size = config.positive("vocab_size");
  out.hidden_size = config.positive("hidden_size");
  MlpSpec mlp{.intermediate_size = config.positive("intermediate_size")};
  const std::int64_t num_layers = config.positive("num_hidden_layers");
  constexpr std::int64_t max_layers = 10'000;  // each takes memory
  check(num_layers <= max_layers, config.where, ": \"num_hidden_layers\" is ", num_layers, "; expected at most ",
        max_layers);
  AttentionSpec attention{.num_heads = config.positive("num_attention_heads")};
  attention.num_kv_heads = config.positive("num_key_value_heads", attention.num_heads);
  attention.head_dim = config.positive("head_dim", out.hidden_size / attention.num_heads);
  check(attention.num_heads % attention.num_kv_heads == 0, config.where, ": num_attention_heads ", attention.num_heads,
        " is not a multiple of num_key_value_heads ", attention.num_kv_heads);
  check(config.has("head_dim") || out.hidden_size % attention.num_heads == 0, config.where, ": hidden_size ",
        out.hidden_size, " is not a multiple of num_attention_heads ", attention.num_heads);
  check(attention.head_dim % 2 == 0, config.where, ": head_dim ", attention.head_dim,
        " is odd: rotary embeddings need an even one");
  attention.scale = 1 / std::sqrt(static_cast<double>(attention.head_dim));
  out.norm_eps = config.number("rms_norm_eps");
  mlp.activation = config.choice("hidden_act", config.text("hidden_act"), activations);
  out.tie_word_embeddings = config.flag("tie_word_embeddings", false);
  out.attention_dropout = config.number("attention_dropout", 0);
  if (config.has("pad_token_id")) {
    std::int64_t id = config.integer("pad_token_id");
    if (id < 0) id += out.vocab_size;  // torch.nn.Embedding counts from the end
    check(id >= 0 && id < out.vocab_size, config.where, ": pad_token_id ", config.json.at("pad_token_id").dump(),
          " is outside the vocabulary of ", out.vocab_size);
    out.pad_token_id = id;
  }
  out.ropes = {read_rope_config(config, attention.head_dim)};
  out.layers.assign(static_cast<std::size_t>(num_layers), LayerSpec{attention, mlp});
  return out;
}

/// Gives every layer the window `sliding_window`, or none. Throws Error if layer_types contradicts that.
inline void read_window_of_all(const ConfigReader& config, ModelSpec& spec, bool slides) {
  if (slides && config.has("sliding_window"))
    for (LayerSpec& layer : spec.layers) layer.attention.window = config.positive("sliding_window");
  if (!config.has("layer_types")) return;
  const auto types = config.layer_types(spec.layers.size());
  for (std::size_t i = 0; i < types.size(); ++i)
    check(types[i].slides == spec.layers[i].attention.window.has_value(), config.where, ": layer_types entry \"",
          types[i].name, "\" contradicts this model_type, whose layers are all alike");
}

/// If use_sliding_window is true, gives a window to the layers that layer_types names, or that follow
/// max_window_layers.
inline void read_windows_by_layer(const ConfigReader& config, ModelSpec& spec) {
  std::optional<std::int64_t> window;
  if (config.flag("use_sliding_window", false) && config.has("sliding_window"))
    window = config.positive("sliding_window");
  if (!config.has("layer_types")) {
    const std::int64_t first = config.integer("max_window_layers");
    for (std::size_t i = 0; i < spec.layers.size(); ++i)
      if (static_cast<std::int64_t>(i) >= first) spec.layers[i].attention.window = window;
    return;
  }
  const auto types = config.layer_types(spec.layers.size());
  for (std::size_t i = 0; i < types.size(); ++i) {
    if (!types[i].slides) continue;
    check(window.has_value(), config.where,
          ": layer_types has sliding_attention, but there is no window; it needs use_sliding_window true and "
          "sliding_window");
    spec.layers[i].attention.window = window;
  }
}

}  // namespace kto::detail
