// SPDX-License-Identifier: Apache-2.0
// Falcon (arXiv:2311.16867): one projection for queries, keys and values, attention and feed-forward part mostly in
// parallel, rotary positions or ALiBi. The new architecture (40B) has groups of heads and a norm for each part; the old
// one (7B) has one key and value for all heads.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModuleNames falcon_names() {
  return {.embedding = "transformer.word_embeddings",
          .layers = "transformer.h.",
          .last_norm = "transformer.ln_f",
          .prefix = "transformer.",
          .embedding_norm = "transformer.word_embeddings_layernorm",
          .layer = {.attention = {.qkv = "self_attention.query_key_value", .output = "self_attention.dense"},
                    .up = "mlp.dense_h_to_4h",
                    .down = "mlp.dense_4h_to_h"}};
}

/// How many norms a layer has before its parts. Throws Error for values that transformers cannot run.
inline std::int64_t read_falcon_norms(const ConfigReader& config, bool is_new, bool is_parallel) {
  check(is_parallel || !is_new, config.where,
        ": \"parallel_attn\": false contradicts \"new_decoder_architecture\": true, whose layers are parallel");
  const std::int64_t count = config.positive("num_ln_in_parallel_attn", is_new ? 2 : 1);
  check(count == 1 || (count == 2 && is_new) || !is_parallel, config.where, ": \"num_ln_in_parallel_attn\": ", count,
        " is not supported; expected 1", is_new ? " or 2" : ", or \"new_decoder_architecture\": true");
  return is_parallel ? count : 2;
}

inline ModelSpec read_falcon(const ConfigReader& config) {
  const bool is_new = config.flag("new_decoder_architecture", false), has_alibi = config.flag("alibi", false);
  const bool is_parallel = config.flag("parallel_attn", true);
  const bool shares_one = !is_new && config.flag("multi_query", true);
  Json json = without_keys(older_keys(config), {"head_dim"});
  const std::int64_t num_heads = config.positive("num_attention_heads");
  const std::int64_t num_kv_heads = shares_one ? 1 : config.positive("num_kv_heads", num_heads);
  check(is_new || shares_one || num_kv_heads == num_heads, config.where, ": \"num_kv_heads\": ", num_kv_heads,
        " needs \"new_decoder_architecture\": true; expected num_attention_heads, ", num_heads);
  json["num_key_value_heads"] = num_kv_heads;
  ModelSpec out = read_decoder({json, config.where}, layer_norm(config.number("layer_norm_epsilon"), true), !has_alibi);
  out.names = falcon_names();
  const std::int64_t num_norms = read_falcon_norms(config, is_new, is_parallel);
  if (is_parallel && num_norms == 2) {
    out.names.layer.before_attention = "ln_attn";
    out.names.layer.before_mlp = "ln_mlp";
  }
  for (LayerSpec& layer : out.layers) {
    layer.is_parallel = is_parallel;
    if (num_norms == 1) layer.before_mlp.reset();
    layer.attention.layout = shares_one ? QkvLayout::stacked : QkvLayout::grouped;
    if (has_alibi) layer.attention.alibi = AlibiSpec{.scale = layer.attention.scale, .in_bfloat16 = true};
    layer.attention.qkv_bias = layer.attention.output_bias = layer.mlp.bias = config.flag("bias", false);
    layer.mlp.is_gated = false;
  }
  return out;
}

inline constexpr Family falcon{
    .model_type = "falcon",
    .defaults = R"({"vocab_size": 65024, "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71,
                    "max_position_embeddings": 2048, "hidden_act": "gelu", "layer_norm_epsilon": 1e-5,
                    "tie_word_embeddings": true})",
    .read = read_falcon,
    .other_names = R"({"n_embed": "hidden_size", "ffn_hidden_size": "intermediate_size", "activation": "hidden_act"})",
    .lora_targets = R"(["query_key_value"])"};

}  // namespace kto::detail
