// SPDX-License-Identifier: Apache-2.0
// BLOOM (arXiv:2211.05100): ALiBi, LayerNorms, one of them on the embeddings, one projection for queries, keys and
// values, and a plain feed-forward part.
#pragma once

#include "kto/model/families/falcon.hpp"

namespace kto::detail {

inline ModelSpec read_bloom(const ConfigReader& config) {
  check(!config.flag("apply_residual_connection_post_layernorm", false), config.where,
        ": \"apply_residual_connection_post_layernorm\": true is not supported");
  Json json = without_keys(older_keys(config), {"num_key_value_heads", "head_dim"});
  json["intermediate_size"] = 4 * config.positive("hidden_size");
  json["hidden_act"] = "gelu";
  ModelSpec out = read_decoder({json, config.where}, layer_norm(config.number("layer_norm_epsilon"), true), false);
  out.names = falcon_names();
  out.embedding_norm = out.last_norm;
  for (LayerSpec& layer : out.layers) {
    layer.attention.layout = QkvLayout::grouped;
    layer.attention.alibi = AlibiSpec{};
    layer.attention.qkv_bias = layer.attention.output_bias = layer.mlp.bias = true;
    layer.mlp.activation = Activation::bloom_gelu;
    layer.mlp.is_gated = false;
  }
  return out;
}

inline constexpr Family bloom{
    .model_type = "bloom",
    .defaults = R"({"vocab_size": 250880, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8,
                    "layer_norm_epsilon": 1e-5, "tie_word_embeddings": true})",
    .read = read_bloom,
    .other_names = R"({"n_embed": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"})",
    .lora_targets = R"(["query_key_value"])"};

}  // namespace kto::detail
