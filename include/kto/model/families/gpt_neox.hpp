// SPDX-License-Identifier: Apache-2.0
// GPT-NeoX and Pythia (arXiv:2204.06745, arXiv:2304.01373): attention and feed-forward part in parallel, each behind a
// LayerNorm of its own, one projection for queries, keys and values, rotary positions on a quarter of each head.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModuleNames gpt_neox_names() {
  ModuleNames out;
  out.embedding = "gpt_neox.embed_in";
  out.layers = "gpt_neox.layers.";
  out.last_norm = "gpt_neox.final_layer_norm";
  out.prefix = "gpt_neox.";
  out.stored_head = "embed_out";
  out.layer.attention.qkv = "attention.query_key_value";
  out.layer.attention.output = "attention.dense";
  out.layer.up = "mlp.dense_h_to_4h";
  out.layer.down = "mlp.dense_4h_to_h";
  return out;
}

inline ModelSpec read_gpt_neox(const ConfigReader& config) {
  Json json = without_keys(config.json, {"num_key_value_heads", "pad_token_id"});
  json["partial_rotary_factor"] = config.number("rotary_pct", 0.25);  // no other key of the file says it
  ModelSpec out = read_decoder({json, config.where}, layer_norm(config.number("layer_norm_eps"), /*has_bias=*/true));
  out.names = gpt_neox_names();
  const std::int64_t num_heads = out.layers[0].attention.num_heads, head_dim = out.layers[0].attention.head_dim;
  check(head_dim * num_heads == out.hidden_size, config.where, ": head_dim is ", head_dim, "; expected ",
        out.hidden_size / num_heads, ", hidden_size / num_attention_heads");
  for (LayerSpec& layer : out.layers) {
    layer.is_parallel = config.flag("use_parallel_residual", true);
    layer.attention.layout = QkvLayout::grouped;
    layer.attention.qkv_bias = layer.attention.output_bias = config.flag("attention_bias", true);
    layer.mlp.is_gated = false;
    layer.mlp.bias = true;
  }
  return out;
}

inline constexpr Family gpt_neox{
    .model_type = "gpt_neox",
    .defaults = R"({"vocab_size": 50432, "hidden_size": 6144, "intermediate_size": 24576, "num_hidden_layers": 44,
                    "num_attention_heads": 64, "hidden_act": "gelu", "max_position_embeddings": 2048,
                    "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25})",
    .read = read_gpt_neox,
    .other_names = R"({"rotary_emb_base": "rope_theta"})",
    .lora_targets = R"(["query_key_value"])"};

}  // namespace kto::detail
