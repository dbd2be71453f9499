// SPDX-License-Identifier: Apache-2.0
// GPT-2 and StarCoder (gpt_bigcode, arXiv:2305.06161): LayerNorms, learned positions, biases everywhere, a plain
// feed-forward part; GPT-2's weights are stored as [inputs, outputs], StarCoder's heads share one key and value.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModuleNames gpt2_names() {
  return {.embedding = "transformer.wte",
          .layers = "transformer.h.",
          .last_norm = "transformer.ln_f",
          .prefix = "transformer.",
          .positions = "transformer.wpe",
          .layer = {.attention = {.qkv = "attn.c_attn", .output = "attn.c_proj"},
                    .up = "mlp.c_fc",
                    .down = "mlp.c_proj",
                    .before_attention = "ln_1",
                    .before_mlp = "ln_2"}};
}

inline ModelSpec read_gpt2_or_bigcode(const ConfigReader& config, std::optional<std::int64_t> num_kv_heads,
                                      QkvLayout layout) {
  check(!config.flag("add_cross_attention", false), config.where, ": \"add_cross_attention\": true is not supported");
  Json json = without_keys(older_keys(config), {"num_key_value_heads", "head_dim"});
  if (num_kv_heads) json["num_key_value_heads"] = *num_kv_heads;
  ModelSpec out = read_decoder({json, config.where}, layer_norm(config.number("layer_norm_epsilon"), true), false);
  out.names = gpt2_names();
  out.positions = {.count = config.positive("max_position_embeddings")};
  for (LayerSpec& layer : out.layers) {
    layer.attention.layout = layout;
    layer.attention.qkv_bias = layer.attention.output_bias = layer.mlp.bias = true;
    layer.mlp.is_gated = false;
    if (!config.flag("scale_attn_weights", true)) layer.attention.scale = 1;
  }
  return out;
}

inline ModelSpec read_gpt2(const ConfigReader& config) {
  ModelSpec out = read_gpt2_or_bigcode(config, {}, QkvLayout::stacked);
  out.linears_are_transposed = true;
  if (config.flag("scale_attn_by_inverse_layer_idx", false))
    for (std::size_t i = 0; i < out.layers.size(); ++i) out.layers[i].attention.scale /= static_cast<double>(i + 1);
  return out;
}

inline ModelSpec read_gpt_bigcode(const ConfigReader& config) {
  if (config.flag("multi_query", true)) return read_gpt2_or_bigcode(config, 1, QkvLayout::stacked);
  return read_gpt2_or_bigcode(config, {}, QkvLayout::grouped);
}

inline constexpr const char* gpt2_other_names =
    R"({"n_embd": "hidden_size", "n_positions": "max_position_embeddings", "n_head": "num_attention_heads",
        "n_layer": "num_hidden_layers", "n_inner": "intermediate_size", "activation_function": "hidden_act",
        "attn_pdrop": "attention_dropout"})";

inline constexpr Family gpt2{
    .model_type = "gpt2",
    .defaults = R"({"vocab_size": 50257, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
                    "max_position_embeddings": 1024, "hidden_act": "gelu_new", "layer_norm_epsilon": 1e-5,
                    "tie_word_embeddings": true, "attention_dropout": 0.1})",
    .read = read_gpt2,
    .other_names = gpt2_other_names,
    .lora_targets = R"(["c_attn"])"};
inline constexpr Family gpt_bigcode{
    .model_type = "gpt_bigcode",
    .defaults = R"({"vocab_size": 50257, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
                    "max_position_embeddings": 1024, "hidden_act": "gelu_pytorch_tanh", "layer_norm_epsilon": 1e-5,
                    "tie_word_embeddings": true, "attention_dropout": 0.1})",
    .read = read_gpt_bigcode,
    .other_names = gpt2_other_names,
    .lora_targets = R"(["c_attn"])"};

}  // namespace kto::detail
