// SPDX-License-Identifier: Apache-2.0
// The text of Gemma 4: gemma3's order of norms; full attention has wider heads, and values that may be its keys; later
// layers use the keys and values of earlier ones; and each layer has embeddings of its own. Not its experts.
#pragma once

#include <algorithm>

#include "kto/model/families/gemma2.hpp"

namespace kto::detail {

/// Gives the layers with full attention heads of another kind: per_layer_config, or the keys that stand for it.
inline void read_full_heads(const ConfigReader& config, ModelSpec& spec, const std::vector<bool>& slides) {
  const bool keys_are_values = config.flag("attention_k_eq_v", false), is_listed = config.has("per_layer_config");
  const Json none = Json::object();
  const Json& listed = is_listed ? config.json.at("per_layer_config") : none;
  check(listed.is_object(), config.where, ": \"per_layer_config\": expected an object");
  std::size_t num_used = 0;
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    AttentionSpec& attention = spec.layers[i].attention;
    attention.kv.values_are_keys = keys_are_values && !slides[i];
    const std::string layer = std::to_string(i);
    if (listed.contains(layer)) {
      ++num_used;
      const ConfigReader own{listed.at(layer), concat(config.where, ": per_layer_config: ", layer)};
      check(own.json.is_object(), own.where, ": expected an object");
      for (const auto& [key, value] : own.json.items())
        check(key == "head_dim" || key == "num_key_value_heads", own.where, ": \"", key, "\" is not supported");
      attention.head_dim = own.positive("head_dim", attention.head_dim);
      attention.num_kv_heads = own.positive("num_key_value_heads", attention.num_kv_heads);
    } else if (!is_listed && !slides[i]) {
      attention.head_dim = config.positive("global_head_dim", 512);
      if (keys_are_values)
        attention.num_kv_heads = config.positive("num_global_key_value_heads", attention.num_kv_heads);
    }
    check(attention.num_heads % attention.num_kv_heads == 0 && attention.head_dim % 2 == 0, config.where, ": layer ", i,
          " has ", attention.num_heads, " heads of ", attention.head_dim, " and ", attention.num_kv_heads,
          " key/value heads; expected an even width, and as many heads or a fraction of them");
  }
  check(num_used == listed.size(), config.where, ": \"per_layer_config\": expected numbers of layers as keys, got ",
        listed.dump());
}

/// Gives the last layers the keys and values of the last layer of their kind before them.
inline void share_keys(const ConfigReader& config, ModelSpec& spec, const std::vector<bool>& slides) {
  const std::int64_t num_shared = config.integer("num_kv_shared_layers", 0), num_layers = std::ssize(spec.layers);
  check(num_shared >= 0 && num_shared < num_layers, config.where, ": \"num_kv_shared_layers\" is ", num_shared,
        "; expected less than the ", num_layers, " layers");
  const auto first = static_cast<std::size_t>(num_layers - num_shared);
  for (std::size_t i = first; i < spec.layers.size(); ++i) {
    std::size_t end = first;
    while (end > 0 && slides[end - 1] != slides[i]) --end;
    check(end > 0, config.where, ": no layer before the last ", num_shared,
          ", which have no keys of their own (num_kv_shared_layers), has the type of layer ", i);
    const AttentionSpec &own = spec.layers[i].attention, &source = spec.layers[end - 1].attention;
    check(own.head_dim == source.head_dim && own.num_kv_heads == source.num_kv_heads, config.where, ": layers ", i,
          " and ", end - 1, " share keys, but not the shape of their heads");
    spec.layers[i].attention.kv.of_layer = end - 1;
    if (config.flag("use_double_wide_mlp", false)) spec.layers[i].mlp.intermediate_size *= 2;
  }
}

/// Rotary frequencies of layers without and with a window, each for their own width of heads.
inline void read_gemma4_ropes(const ConfigReader& config, ModelSpec& spec, const std::vector<bool>& slides) {
  for (std::size_t i = 0; i < spec.layers.size(); ++i) spec.layers[i].attention.rope = slides[i] ? 1 : 0;
  spec.ropes.resize(2);
  for (const bool sliding : {false, true}) {
    const char* type = sliding ? "sliding_attention" : "full_attention";
    const auto layer = std::ranges::find(slides, sliding);
    if (layer == slides.end()) continue;
    const Json& by_type = config.json.at("rope_parameters");
    check(by_type.is_object() && by_type.contains(type), config.where, ": rope_parameters has no \"", type, '"');
    Json json = without_keys(config.json, {"rope_scaling", "rope_theta", "partial_rotary_factor"});
    json["rope_parameters"] = by_type.at(type);
    const AttentionSpec& of = spec.layers[static_cast<std::size_t>(layer - slides.begin())].attention;
    spec.ropes[sliding ? 1 : 0] = read_rope_config({json, config.where}, of.head_dim);
    check(spec.ropes[sliding ? 1 : 0].dim == of.head_dim, config.where, ": rope_parameters of ", type,
          ": partial_rotary_factor other than 1 needs rope_type proportional");
  }
}

inline ModelSpec read_gemma4(const ConfigReader& config) {
  check(!config.flag("enable_moe_block", false), config.where, ": \"enable_moe_block\": experts are not supported");
  check(config.text("use_bidirectional_attention", "vision") == "vision", config.where,
        ": \"use_bidirectional_attention\": only \"vision\" is supported");
  const Json json = without_keys(config.json, {"rope_parameters"});
  const NormSpec norm = root_mean_square(config);
  ModelSpec out = read_decoder({json, config.where}, norm);
  out.embedding_scale = std::sqrt(static_cast<float>(out.hidden_size));  // as transformers holds it
  out.head.soft_cap = config.number("final_logit_softcapping", 0);
  put_norms_around_parts(out);
  auto slides = read_layer_types(config, out, [](std::size_t i) { return !is_nth(i, 6); });
  slides.back() = false;  // as transformers has it
  set_windows(config, out, slides);
  std::optional<LayerEmbeddingSpec> embedding;
  if (const std::int64_t width = config.integer("hidden_size_per_layer_input", 0); width != 0)
    embedding = {.vocab_size = config.positive("vocab_size_per_layer_input"),
                 .width = config.positive("hidden_size_per_layer_input"),
                 .activation = out.layers[0].mlp.activation,
                 .norm = norm};
  check(!embedding || embedding->vocab_size >= out.vocab_size, config.where, ": \"vocab_size_per_layer_input\" is less",
        " than \"vocab_size\": tokens would have no embedding");
  for (LayerSpec& layer : out.layers) {
    layer.attention.qkv_bias = layer.attention.output_bias = config.flag("attention_bias", false);
    layer.attention.scale = 1;
    layer.attention.qk_norm = QkNormSpec{.norm = norm};
    layer.attention.kv.value_norm = NormSpec{.eps = norm.eps, .has_weight = false};
    layer.embedding = embedding;
    layer.has_scalar = true;
  }
  read_full_heads(config, out, slides);
  share_keys(config, out, slides);
  read_gemma4_ropes(config, out, slides);
  return out;
}

inline constexpr Family gemma4{
    .model_type = "gemma4_text",
    .defaults = R"({"vocab_size": 262144, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 30,
                    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "per_layer_config": null,
                    "hidden_act": "gelu_pytorch_tanh", "max_position_embeddings": 131072, "pad_token_id": 0,
                    "tie_word_embeddings": true, "sliding_window": 512, "vocab_size_per_layer_input": 262144,
                    "hidden_size_per_layer_input": 256, "rope_parameters": {
                        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25,
                                           "rope_theta": 1000000.0}}})",
    .read = read_gemma4,
    .other_names = R"({"hidden_activation": "hidden_act"})"};

}  // namespace kto::detail
