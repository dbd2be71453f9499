// SPDX-License-Identifier: Apache-2.0
// T5 and its successors, encoder-decoders with relative position biases (arXiv:1910.10683): T5 v1.1 and Flan-T5 with a
// gated feed-forward part, mT5 (arXiv:2010.11934), and UMT5, whose layers have a table of biases each.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModuleNames t5_names(const std::string& stack, bool is_decoder, bool is_gated) {
  const std::string feed_forward = is_decoder ? "layer.2." : "layer.1.", dense = feed_forward + "DenseReluDense.",
                    own = "layer.0.SelfAttention.", cross = "layer.1.EncDecAttention.";
  return {.embedding = "shared",
          .layers = stack + ".block.",
          .last_norm = stack + ".final_layer_norm",
          .prefix = "",
          .embedding_copies = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"},
          .layer = {.attention = {.q = own + "q", .k = own + "k", .v = own + "v", .output = own + "o"},
                    .gate = dense + "wi_0",
                    .up = dense + (is_gated ? "wi_1" : "wi"),
                    .down = dense + "wo",
                    .before_attention = "layer.0.layer_norm",
                    .before_mlp = feed_forward + "layer_norm",
                    .cross = {.q = cross + "q", .k = cross + "k", .v = cross + "v", .output = cross + "o"},
                    .before_cross = "layer.1.layer_norm",
                    .relative_bias = own + "relative_attention_bias"}};
}

inline ModelSpec read_t5_stack(const ConfigReader& config, bool is_decoder) {
  const std::string projection = config.text("feed_forward_proj");
  const bool names_gate = projection.starts_with("gated-"), is_gated = config.flag("is_gated_act", names_gate);
  const std::string named = names_gate ? projection.substr(6) : projection,
                    derived = projection == "gated-gelu" ? "gelu_new" : named;
  Json json = without_keys(config.json, {"num_key_value_heads", "pad_token_id"});
  json["hidden_act"] = config.has("dense_act_fn") ? config.text("dense_act_fn") : derived;
  json["attention_dropout"] = config.number("dropout_rate");
  if (is_decoder && config.has("num_decoder_layers")) json["num_hidden_layers"] = config.positive("num_decoder_layers");
  const NormSpec norm = root_mean_square(config);
  ModelSpec out = read_decoder({json, config.where}, norm, /*is_rotary=*/false);
  out.names = t5_names(is_decoder ? "decoder" : "encoder", is_decoder, is_gated);
  const std::int64_t buckets = config.positive("relative_attention_num_buckets"),
                     distance = config.positive("relative_attention_max_distance"),
                     exact = (is_decoder ? buckets : buckets / 2) / 2;
  check(exact > 0 && distance > exact, config.where, ": relative_attention_num_buckets ", buckets,
        " and relative_attention_max_distance ", distance, " leave no buckets for distances");
  for (std::size_t i = 0; i < out.layers.size(); ++i) {
    LayerSpec& layer = out.layers[i];
    layer.attention.scale = 1;
    layer.mlp.is_gated = is_gated;
    layer.relative_bias = {.num_buckets = buckets,
                           .max_distance = distance,
                           .is_bidirectional = !is_decoder,
                           .is_first_layers = i > 0 && config.text("model_type") != "umt5"};
    if (is_decoder) layer.cross = CrossSpec{.attention = layer.attention, .before = norm, .after = {}};
  }
  return out;
}

inline ModelSpec read_t5(const ConfigReader& config) {
  refuse_without_encoder(config);
  ModelSpec out = read_t5_stack(config, /*is_decoder=*/true);
  out.encoder = {{.stack = read_t5_stack(config, /*is_decoder=*/false),
                  .start_token_id = read_token_id(config, out, "decoder_start_token_id")}};
  // Files of transformers 4 say by tie_word_embeddings whether logits are scaled. They are tied whenever the checkpoint
  // has one weight.
  const bool is_scaled = config.flag("scale_decoder_outputs", config.flag("tie_word_embeddings", true));
  if (is_scaled && config.text("model_type") != "mt5")
    out.head.scale = 1 / std::sqrt(static_cast<double>(out.hidden_size));
  out.tie_word_embeddings = true;
  return out;
}

inline constexpr const char* t5_other_names =
    R"({"d_model": "hidden_size", "d_kv": "head_dim", "d_ff": "intermediate_size", "num_heads": "num_attention_heads",
        "num_layers": "num_hidden_layers", "layer_norm_epsilon": "rms_norm_eps"})";

inline constexpr const char* mt5_defaults =
    R"({"vocab_size": 250112, "hidden_size": 512, "head_dim": 64, "intermediate_size": 1024, "num_hidden_layers": 8,
        "num_attention_heads": 6, "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
        "dropout_rate": 0.1, "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0})";

inline constexpr Family t5{
    .model_type = "t5",
    .defaults = R"({"vocab_size": 32128, "hidden_size": 512, "head_dim": 64, "intermediate_size": 2048,
                    "num_hidden_layers": 6, "num_attention_heads": 8, "relative_attention_num_buckets": 32,
                    "relative_attention_max_distance": 128, "dropout_rate": 0.1, "feed_forward_proj": "relu"})",
    .read = read_t5,
    .other_names = t5_other_names,
    .lora_targets = R"(["q", "v"])"};
inline constexpr Family mt5{.model_type = "mt5",
                            .defaults = mt5_defaults,
                            .read = read_t5,
                            .other_names = t5_other_names,
                            .lora_targets = R"(["q", "v"])"};
inline constexpr Family umt5{
    .model_type = "umt5", .defaults = mt5_defaults, .read = read_t5, .other_names = t5_other_names};

}  // namespace kto::detail
