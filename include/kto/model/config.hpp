// SPDX-License-Identifier: Apache-2.0
// What config.json says about a decoder. Absent keys take the defaults of transformers 5.24; anything that would change
// numbers and is not supported is refused by name. A family is one row of the table below. Free of LibTorch.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/model/detail/config_reader.hpp"
#include "kto/model/rope_config.hpp"
#include "kto/nn/activation.hpp"

namespace kto {

struct ModelConfig {
  std::string model_type;
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t num_layers = 0;
  std::int64_t num_heads = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t head_dim = 0;
  double rms_norm_eps = 1e-6;
  Activation activation = Activation::silu;
  bool qkv_bias = false;
  bool output_bias = false;  ///< of the attention's output projection
  bool mlp_bias = false;
  bool qk_norm = false;  ///< queries and keys are normalised per head
  bool tie_word_embeddings = false;
  double attention_dropout = 0;  ///< as the file says; never applied
  std::vector<std::int64_t> eos_token_ids = {};
  std::optional<std::int64_t> pad_token_id;          ///< its embedding gets no gradient, as in torch.nn.Embedding
  std::vector<std::optional<std::int64_t>> windows;  ///< per layer: how many tokens a token sees, itself included
  RopeConfig rope;
};

/// All that the numbers of a decoder of this config depend on beside its parameters, as text.
inline std::string describe(const ModelConfig& config) {
  Json windows = Json::array();
  for (const auto& window : config.windows) windows.push_back(window ? Json(*window) : Json());
  const RopeConfig& rope = config.rope;
  const Json out = {config.model_type,
                    config.num_heads,
                    config.num_kv_heads,
                    config.head_dim,
                    config.rms_norm_eps,
                    static_cast<int>(config.activation),
                    config.qk_norm,
                    windows,
                    static_cast<int>(rope.type),
                    rope.theta,
                    rope.factor,
                    rope.attention_scaling,
                    rope.max_positions,
                    rope.original_max_positions,
                    rope.beta_fast,
                    rope.beta_slow,
                    rope.truncate,
                    rope.low_freq_factor,
                    rope.high_freq_factor,
                    rope.short_factor,
                    rope.long_factor};
  return out.dump();
}

namespace detail {

/// Where a family's layers say whether they slide: nowhere; one window for all; layer_types or max_window_layers.
enum class WindowRule { none, every_layer, by_layer };
/// Whether a family has a bias: never, always, or as config.json's key says.
enum class BiasRule { never, always, by_key };

struct ModelFamily {
  std::string_view model_type;
  const char* defaults;  ///< JSON: what transformers assumes where config.json has no such key
  BiasRule qkv_bias = BiasRule::never;
  BiasRule output_bias = BiasRule::never;
  BiasRule mlp_bias = BiasRule::never;
  bool qk_norm = false;
  WindowRule window = WindowRule::none;
};

inline constexpr ModelFamily model_families[] = {
    ModelFamily{.model_type = "llama",
                .defaults = R"({"vocab_size": 32000, "intermediate_size": 11008, "max_position_embeddings": 2048})",
                .qkv_bias = BiasRule::by_key,
                .output_bias = BiasRule::by_key,
                .mlp_bias = BiasRule::by_key},
    ModelFamily{.model_type = "mistral",
                .defaults = R"({"vocab_size": 32000, "intermediate_size": 14336, "num_key_value_heads": 8,
                                "max_position_embeddings": 131072, "sliding_window": 4096})",
                .window = WindowRule::every_layer},
    ModelFamily{.model_type = "qwen2",
                .defaults = R"({"vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32,
                                "max_position_embeddings": 32768, "sliding_window": 4096})",
                .qkv_bias = BiasRule::always,
                .window = WindowRule::by_layer},
    ModelFamily{.model_type = "qwen3",
                .defaults = R"({"vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32,
                                "head_dim": 128, "max_position_embeddings": 32768, "sliding_window": 4096})",
                .qkv_bias = BiasRule::by_key,
                .output_bias = BiasRule::by_key,
                .qk_norm = true,
                .window = WindowRule::by_layer}};

/// Defaults that all families share.
inline constexpr const char* common_defaults =
    R"({"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "hidden_act": "silu",
        "rms_norm_eps": 1e-6, "max_window_layers": 28})";

/// Keys that change numbers in every family and are not supported.
inline void refuse_unsupported(const ConfigReader& config) {
  check(!config.has("quantization_config"), config.where,
        ": \"quantization_config\": quantized weights are not supported; save the model dequantized first");
  check(config.flag("is_causal", true), config.where, ": \"is_causal\": false is not supported");
  check(!config.has("per_layer_config"), config.where, ": \"per_layer_config\" is not supported");
}

inline std::vector<std::optional<std::int64_t>> read_windows(const ConfigReader& config, WindowRule rule,
                                                             std::int64_t num_layers) {
  std::optional<std::int64_t> window;
  const bool used =
      rule == WindowRule::every_layer || (rule == WindowRule::by_layer && config.flag("use_sliding_window", false));
  if (used && config.has("sliding_window")) window = config.positive("sliding_window");
  std::vector<std::optional<std::int64_t>> windows(static_cast<std::size_t>(num_layers),
                                                   rule == WindowRule::every_layer ? window : std::nullopt);
  if (!config.has("layer_types")) {
    if (rule == WindowRule::by_layer)
      for (std::int64_t i = config.integer("max_window_layers"); i < num_layers; ++i)
        if (i >= 0) windows[static_cast<std::size_t>(i)] = window;
    return windows;
  }
  const auto types = config.texts("layer_types", num_layers);
  constexpr std::pair<std::string_view, bool> known[] = {
      {"full_attention", false}, {"attention", false}, {"sliding_attention", true}};
  for (std::size_t i = 0; i < types.size(); ++i) {
    const bool slides = config.choice("layer_types entry", types[i], known);
    if (rule == WindowRule::by_layer) {
      check(!slides || window, config.where, ": layer_types has sliding_attention, but there is no window: needs ",
            "use_sliding_window true and sliding_window");
      windows[i] = slides ? window : std::nullopt;
    } else {
      check(slides == windows[i].has_value(), config.where, ": layer_types entry \"", types[i],
            "\" differs from what this model_type does in every layer");
    }
  }
  return windows;
}

}  // namespace detail

/// Reads the content of a config.json; `where` (its path) opens the message of the Error thrown when the model is of an
/// unknown family, asks for something unsupported, or contradicts itself.
inline ModelConfig parse_model_config(Json json, const std::string& where) {
  check(json.is_object(), where, ": expected an object");
  detail::ConfigReader config{json, where};
  ModelConfig out;
  out.model_type = config.text("model_type");
  std::vector<std::pair<std::string_view, const detail::ModelFamily*>> families;
  for (const auto& row : detail::model_families) families.emplace_back(row.model_type, &row);
  const detail::ModelFamily& family = *config.choice("model_type", out.model_type, families);
  for (const char* text : {family.defaults, detail::common_defaults}) {
    const Json defaults = Json::parse(text);
    for (const auto& [key, value] : defaults.items())
      if (!json.contains(key)) json[key] = value;
  }
  detail::refuse_unsupported(config);

  out.vocab_size = config.positive("vocab_size");
  out.hidden_size = config.positive("hidden_size");
  out.intermediate_size = config.positive("intermediate_size");
  out.num_layers = config.positive("num_hidden_layers");
  constexpr std::int64_t max_layers = 10'000;  // memory is taken for each
  check(out.num_layers <= max_layers, where, ": \"num_hidden_layers\" is ", out.num_layers, "; expected at most ",
        max_layers);
  out.num_heads = config.positive("num_attention_heads");
  out.num_kv_heads = config.positive("num_key_value_heads", out.num_heads);
  out.head_dim = config.positive("head_dim", out.hidden_size / out.num_heads);
  check(out.num_heads % out.num_kv_heads == 0, where, ": num_attention_heads ", out.num_heads,
        " is not a multiple of num_key_value_heads ", out.num_kv_heads);
  check(config.has("head_dim") || out.hidden_size % out.num_heads == 0, where, ": hidden_size ", out.hidden_size,
        " is not a multiple of num_attention_heads ", out.num_heads);
  check(out.head_dim % 2 == 0, where, ": head_dim ", out.head_dim, " is odd: rotary embeddings need an even one");
  out.rms_norm_eps = config.number("rms_norm_eps");
  out.activation = config.choice("hidden_act", config.text("hidden_act"), detail::activations);

  const auto bias = [&](detail::BiasRule rule, const char* key) {
    return rule == detail::BiasRule::always || (rule == detail::BiasRule::by_key && config.flag(key, false));
  };
  out.qkv_bias = bias(family.qkv_bias, "attention_bias");
  out.output_bias = bias(family.output_bias, "attention_bias");
  out.mlp_bias = bias(family.mlp_bias, "mlp_bias");
  out.qk_norm = family.qk_norm;
  out.tie_word_embeddings = config.flag("tie_word_embeddings", false);
  out.attention_dropout = config.number("attention_dropout", 0);
  if (const auto eos = json.find("eos_token_id"); eos != json.end())
    for (const Json& id : eos->is_array() ? *eos : Json::array({*eos}))
      if (const auto number = json_as<std::int64_t>(id)) out.eos_token_ids.push_back(*number);
  if (config.has("pad_token_id")) {
    std::int64_t id = config.integer("pad_token_id");
    if (id < 0) id += out.vocab_size;  // torch.nn.Embedding counts from the end
    check(id >= 0 && id < out.vocab_size, where, ": pad_token_id ", config.json.at("pad_token_id").dump(),
          " is outside the vocabulary of ", out.vocab_size);
    out.pad_token_id = id;
  }
  out.windows = detail::read_windows(config, family.window, out.num_layers);
  out.rope = read_rope_config(config, out.head_dim);
  return out;
}

/// Reads a model folder's config.json.
inline ModelConfig read_model_config(const fs::path& folder) {
  const fs::path path = folder / "config.json";
  check(fs::is_directory(folder), folder.string(), ": is not a folder; expected a model folder on this machine");
  check(fs::exists(path) || !fs::exists(folder / "adapter_config.json"), folder.string(),
        ": is an adapter, not a whole model: it has adapter_config.json and no config.json");
  return parse_model_config(read_json(path), path.string());
}

}  // namespace kto
