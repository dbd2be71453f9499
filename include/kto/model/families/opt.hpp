// SPDX-License-Identifier: Apache-2.0
// OPT (arXiv:2205.01068): LayerNorms before each part, or after each sum, learned positions that begin at row 2, and a
// plain feed-forward part.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModuleNames opt_names() {
  return {.embedding = "model.decoder.embed_tokens",
          .layers = "model.decoder.layers.",
          .last_norm = "model.decoder.final_layer_norm",
          .positions = "model.decoder.embed_positions",
          .layer = {.attention = {.output = "self_attn.out_proj"},
                    .up = "fc1",
                    .down = "fc2",
                    .before_attention = "self_attn_layer_norm",
                    .after_attention = "self_attn_layer_norm",
                    .before_mlp = "final_layer_norm",
                    .after_mlp = "final_layer_norm"}};
}

inline ModelSpec read_opt(const ConfigReader& config) {
  NormSpec norm = layer_norm(1e-5, true);
  norm.has_weight = norm.has_bias = config.flag("layer_norm_elementwise_affine", true);
  const Json json = without_keys(config.json, {"num_key_value_heads", "head_dim"});
  ModelSpec out = read_decoder({json, config.where}, norm, /*is_rotary=*/false);
  const std::int64_t width = config.positive("word_embed_proj_dim", out.hidden_size);
  check(width == out.hidden_size, config.where, ": \"word_embed_proj_dim\": ", width,
        " is not supported; expected hidden_size, ", out.hidden_size);
  out.names = opt_names();
  constexpr std::int64_t offset = 2;
  out.positions = {.count = config.positive("max_position_embeddings") + offset, .offset = offset};
  const bool norms_first = config.flag("do_layer_norm_before", true), bias = config.flag("enable_bias", true);
  if (!norms_first || config.flag("_remove_final_layer_norm", false)) out.last_norm.reset();
  for (LayerSpec& layer : out.layers) {
    layer.attention.qkv_bias = layer.attention.output_bias = layer.mlp.bias = bias;
    layer.mlp.is_gated = false;
    if (norms_first) continue;
    layer.normalizes_sums = true;
    layer.after_attention = std::exchange(layer.before_attention, {});
    layer.after_mlp = std::exchange(layer.before_mlp, {});
  }
  return out;
}

inline constexpr Family opt{
    .model_type = "opt",
    .defaults = R"({"vocab_size": 50272, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
                    "num_attention_heads": 12, "max_position_embeddings": 2048, "hidden_act": "relu", "pad_token_id": 1,
                    "tie_word_embeddings": true})",
    .read = read_opt,
    .other_names = R"({"ffn_dim": "intermediate_size", "activation_function": "hidden_act"})",
    .lora_targets = R"(["q_proj", "v_proj"])"};

}  // namespace kto::detail
