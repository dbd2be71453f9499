// SPDX-License-Identifier: Apache-2.0
// BART (arXiv:1910.13461): an encoder-decoder with learned positions that begin at row 2, LayerNorms after each sum and
// biases everywhere.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModuleNames bart_names(const std::string& stack) {
  return {.embedding = "model.shared",
          .layers = stack + ".layers.",
          .positions = stack + ".embed_positions",
          .embedding_norm = stack + ".layernorm_embedding",
          .logits_constant = "final_logits_bias",
          .embedding_copies = {"model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"},
          .layer = {.attention = {.output = "self_attn.out_proj"},
                    .up = "fc1",
                    .down = "fc2",
                    .after_attention = "self_attn_layer_norm",
                    .after_mlp = "final_layer_norm",
                    .cross = {.q = "encoder_attn.q_proj",
                              .k = "encoder_attn.k_proj",
                              .v = "encoder_attn.v_proj",
                              .output = "encoder_attn.out_proj"},
                    .after_cross = "encoder_attn_layer_norm"}};
}

inline ModelSpec read_bart_stack(const ConfigReader& config, const std::string& stack) {
  const NormSpec norm = layer_norm(1e-5, true);
  Json json = without_keys(config.json, {"num_key_value_heads", "head_dim"});
  json["num_hidden_layers"] = config.positive(stack + "_layers");
  json["num_attention_heads"] = config.positive(stack + "_attention_heads");
  json["intermediate_size"] = config.positive(stack + "_ffn_dim");
  json["attention_dropout"] =
      std::max({config.number("dropout"), config.number("attention_dropout"), config.number("activation_dropout")});
  check(config.number(stack + "_layerdrop", 0) == 0, config.where, ": \"", stack,
        "_layerdrop\" other than 0 is not supported");
  ModelSpec out = read_decoder({json, config.where}, norm, /*is_rotary=*/false);
  out.names = bart_names("model." + stack);
  out.last_norm.reset();
  out.embedding_norm = norm;
  if (config.flag("scale_embedding", false)) out.embedding_scale = std::sqrt(static_cast<double>(out.hidden_size));
  constexpr std::int64_t offset = 2;
  out.positions = {.count = config.positive("max_position_embeddings") + offset, .offset = offset};
  for (LayerSpec& layer : out.layers) {
    layer.before_attention.reset();
    layer.before_mlp.reset();
    layer.after_attention = layer.after_mlp = norm;
    layer.normalizes_sums = true;
    layer.attention.qkv_bias = layer.attention.output_bias = layer.mlp.bias = true;
    layer.mlp.is_gated = false;
    if (stack == "decoder") layer.cross = CrossSpec{.attention = layer.attention, .before = {}, .after = norm};
  }
  return out;
}

inline ModelSpec read_bart(const ConfigReader& config) {
  refuse_without_encoder(config);
  ModelSpec out = read_bart_stack(config, "decoder");
  out.encoder = {{.stack = read_bart_stack(config, "encoder"),
                  .start_token_id = read_token_id(config, out, "decoder_start_token_id")}};
  check(config.flag("tie_word_embeddings", true), config.where,
        ": \"tie_word_embeddings\": false is not supported: transformers then has three embeddings");
  out.tie_word_embeddings = true;
  return out;
}

inline constexpr Family bart{
    .model_type = "bart",
    .defaults = R"({"vocab_size": 50265, "hidden_size": 1024, "max_position_embeddings": 1024, "encoder_layers": 12,
                    "encoder_ffn_dim": 4096, "encoder_attention_heads": 16, "decoder_layers": 12,
                    "decoder_ffn_dim": 4096, "decoder_attention_heads": 16, "hidden_act": "gelu", "dropout": 0.1,
                    "attention_dropout": 0, "activation_dropout": 0, "pad_token_id": 1, "decoder_start_token_id": 2})",
    .read = read_bart,
    .other_names = R"({"d_model": "hidden_size", "activation_function": "hidden_act"})",
    .lora_targets = R"(["q_proj", "v_proj"])"};

}  // namespace kto::detail
