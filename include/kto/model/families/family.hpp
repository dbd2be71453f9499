// SPDX-License-Identifier: Apache-2.0
// A model family: its model_type, transformers 5.24's defaults for keys missing in config.json, and a function from
// config.json to the description. Free of LibTorch.
#pragma once

#include <cmath>
#include <cstdint>
#include <initializer_list>
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
  const char* other_names = "{}";   ///< JSON: names of keys in this family's files, and the common ones
  const char* lora_targets = "[]";  ///< JSON: the modules that PEFT 0.21 adapts by default; none: it wants them named
  /// JSON: names that PEFT 0.21 takes for experts' parameters wherever they stand among target_modules.
  const char* lora_experts = "[]";
};

inline NormSpec root_mean_square(const ConfigReader& config, double offset = 0) {
  return {.eps = config.number("rms_norm_eps"), .offset = offset};
}
inline NormSpec layer_norm(double eps, bool has_bias) {
  return {.is_layer_norm = true, .eps = eps, .has_bias = has_bias};
}

/// The config without rope_parameters by layer type, for read_decoder; read_ropes_by_layer_type reads them.
inline Json without_ropes_by_layer_type(const ConfigReader& config) {
  Json out = config.json;
  const bool nested = config.has("rope_parameters") && config.json.at("rope_parameters").is_object() &&
                      config.json.at("rope_parameters").contains("full_attention");
  if (nested) out.erase("rope_parameters");
  return out;
}

/// `json` without keys that have no effect in a family.
inline Json without_keys(Json json, std::initializer_list<const char*> keys) {
  for (const char* key : keys) json.erase(key);
  return json;
}

/// The keys of a family whose feed-forward part is four times as wide as the model unless the file says otherwise, and
/// whose pad token's embedding is trained like any other.
inline Json older_keys(const ConfigReader& config) {
  Json out = config.json;
  if (!config.has("intermediate_size")) out["intermediate_size"] = 4 * config.positive("hidden_size");
  return without_keys(std::move(out), {"pad_token_id"});
}

/// Reads the keys that decoders share, with `norm` before each part and at the end. A family then adds its own features
/// to the layers.
inline ModelSpec read_decoder(const ConfigReader& config, const NormSpec& norm, bool is_rotary = true) {
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
  check(!is_rotary || attention.head_dim % 2 == 0, config.where, ": head_dim ", attention.head_dim,
        " is odd: rotary embeddings need an even one");
  attention.scale = 1 / std::sqrt(static_cast<double>(attention.head_dim));
  out.last_norm = norm;
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
  if (is_rotary)
    out.ropes = {read_rope_config(config, attention.head_dim)};
  else
    attention.rope.reset();
  LayerSpec layer;
  layer.attention = attention;
  layer.mlp = mlp;
  layer.before_attention = layer.before_mlp = norm;
  out.layers.assign(static_cast<std::size_t>(num_layers), layer);
  return out;
}

/// Throws Error where a config of an encoder-decoder family describes one of its stacks alone.
inline void refuse_without_encoder(const ConfigReader& config) {
  check(config.flag("is_encoder_decoder", true) && !config.flag("is_decoder", false), config.where,
        ": \"is_encoder_decoder\": false and \"is_decoder\": true are not supported: a ", config.text("model_type"),
        " model has an encoder and a decoder");
}

/// A token of the vocabulary that the config names.
inline std::int64_t read_token_id(const ConfigReader& config, const ModelSpec& spec, const char* key) {
  const std::int64_t id = config.integer(key);
  check(id >= 0 && id < spec.vocab_size, config.where, ": ", key, " ", id, " is outside the vocabulary of ",
        spec.vocab_size);
  return id;
}

/// Reads attention_bias, of all four projections, and mlp_bias, as llama has them.
inline void read_biases(const ConfigReader& config, ModelSpec& spec) {
  for (LayerSpec& layer : spec.layers) {
    layer.attention.qkv_bias = layer.attention.output_bias = config.flag("attention_bias", false);
    layer.mlp.bias = config.flag("mlp_bias", false);
  }
}

/// Moves the norms of a layer behind its parts, under the names that such families give them.
inline void put_norms_after_parts(ModelSpec& spec) {
  spec.names.layer.after_attention = "post_attention_layernorm";
  spec.names.layer.after_mlp = "post_feedforward_layernorm";
  for (LayerSpec& layer : spec.layers) {
    layer.after_attention = std::exchange(layer.before_attention, {});
    layer.after_mlp = std::exchange(layer.before_mlp, {});
  }
}

/// Gives each part of a layer a norm like its first one behind it, under the names that gemmas give them.
inline void put_norms_around_parts(ModelSpec& spec) {
  spec.names.layer.after_attention = "post_attention_layernorm";
  spec.names.layer.before_mlp = "pre_feedforward_layernorm";
  spec.names.layer.after_mlp = "post_feedforward_layernorm";
  for (LayerSpec& layer : spec.layers) layer.after_attention = layer.after_mlp = layer.before_attention;
}

/// The config with `rope` (JSON) as its rope_parameters if it has none.
inline Json with_rope(const ConfigReader& config, const char* rope) {
  Json out = config.json;
  if (!config.has("rope_parameters")) out["rope_parameters"] = Json::parse(rope);
  return out;
}

/// Whether layer `i`, counted from 0, is the last of a group of `n`.
inline bool is_nth(std::size_t i, std::int64_t n) { return (static_cast<std::int64_t>(i) + 1) % n == 0; }

/// Whether each layer slides: as layer_types says, else slides(i).
template <class Slides>
std::vector<bool> read_layer_types(const ConfigReader& config, const ModelSpec& spec, const Slides& slides) {
  std::vector<bool> out;
  if (config.has("layer_types")) {
    for (const auto& type : config.layer_types(spec.layers.size())) out.push_back(type.slides);
  } else {
    for (std::size_t i = 0; i < spec.layers.size(); ++i) out.push_back(slides(i));
  }
  return out;
}

/// Gives those layers that slide the window `sliding_window`.
inline void set_windows(const ConfigReader& config, ModelSpec& spec, const std::vector<bool>& slides) {
  for (std::size_t i = 0; i < spec.layers.size(); ++i)
    if (slides[i]) spec.layers[i].attention.window = config.positive("sliding_window");
}

/// Both, where all layers slide but every `pattern`-th if layer_types is missing. Returns which layers slide.
inline std::vector<bool> read_windows(const ConfigReader& config, ModelSpec& spec, std::int64_t pattern) {
  auto slides = read_layer_types(config, spec, [&](std::size_t i) { return !is_nth(i, pattern); });
  set_windows(config, spec, slides);
  return slides;
}

/// Reads rotary frequencies of two kinds: of layers without a window, and of those with one. They stand in
/// rope_parameters by layer type; rope_theta, and rope_scaling which is put into those of that type, are of the first
/// kind.
inline void read_ropes_by_layer_type(const ConfigReader& config, ModelSpec& spec, const std::vector<bool>& slides,
                                     double theta, double sliding_theta) {
  const Json by_type = config.has("rope_parameters") ? config.json.at("rope_parameters") : Json::object();
  const auto read = [&](const char* type, Json json, double otherwise) {
    Json values = {{"rope_type", "default"}};
    if (by_type.is_object() && by_type.contains(type)) values = by_type[type];
    if (json.contains("rope_scaling") && json["rope_scaling"].is_object()) values.update(json["rope_scaling"]);
    json.erase("rope_scaling");
    json["rope_parameters"] = values;
    if (!json.contains("rope_theta")) json["rope_theta"] = otherwise;
    return read_rope_config({json, config.where}, spec.layers[0].attention.head_dim);
  };
  spec.ropes = {read("full_attention", config.json, theta),
                read("sliding_attention", without_keys(config.json, {"rope_scaling", "rope_theta"}), sliding_theta)};
  for (std::size_t i = 0; i < spec.layers.size(); ++i) spec.layers[i].attention.rope = slides[i] ? 1 : 0;
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
