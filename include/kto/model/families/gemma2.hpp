// SPDX-License-Identifier: Apache-2.0
// Gemma 2 (arXiv:2408.00118) and the text of Gemma 3 (arXiv:2503.19786): gemma with norms on both sides of each part
// and windows in most layers; Gemma 2 caps scores and logits, Gemma 3 has norms of queries and keys, and other rotary
// frequencies in layers with a window.
#pragma once

#include "kto/model/families/gemma.hpp"

namespace kto::detail {

inline ModelSpec read_gemma2_or_3(const ConfigReader& config) {
  ModelSpec out = read_gemma(config);
  out.head.soft_cap = config.number("final_logit_softcapping", 0);
  put_norms_around_parts(out);
  for (LayerSpec& layer : out.layers)
    layer.attention.scale = 1 / std::sqrt(config.positive_number("query_pre_attn_scalar"));
  return out;
}

inline ModelSpec read_gemma2(const ConfigReader& config) {
  ModelSpec out = read_gemma2_or_3(config);
  for (LayerSpec& layer : out.layers) layer.attention.soft_cap = config.number("attn_logit_softcapping", 0);
  read_windows(config, out, 2);
  return out;
}

inline ModelSpec read_gemma3(const ConfigReader& config) {
  const Json json = without_ropes_by_layer_type(config);
  ModelSpec out = read_gemma2_or_3({json, config.where});
  const auto slides = read_windows(config, out, config.positive("sliding_window_pattern", 6));
  const double local = config.positive_number("rope_local_base_freq", 10000);
  read_ropes_by_layer_type(config, out, slides, 1e6, local);
  for (LayerSpec& layer : out.layers) layer.attention.qk_norm = QkNormSpec{.norm = *out.last_norm};
  return out;
}

inline constexpr Family gemma2{
    .model_type = "gemma2",
    .defaults = R"({"vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
                    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
                    "hidden_act": "gelu_pytorch_tanh", "max_position_embeddings": 8192, "pad_token_id": 0,
                    "tie_word_embeddings": true, "query_pre_attn_scalar": 256, "sliding_window": 4096,
                    "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0})",
    .read = read_gemma2,
    .other_names = R"({"hidden_activation": "hidden_act"})",
    .lora_targets = R"(["q_proj", "v_proj"])"};
inline constexpr Family gemma3{
    .model_type = "gemma3_text",
    .defaults = R"({"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
                    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
                    "hidden_act": "gelu_pytorch_tanh", "max_position_embeddings": 131072, "pad_token_id": 0,
                    "tie_word_embeddings": true, "query_pre_attn_scalar": 256, "sliding_window": 4096})",
    .read = read_gemma3,
    .other_names = R"({"hidden_activation": "hidden_act"})",
    .lora_targets = R"(["q_proj", "v_proj"])"};

}  // namespace kto::detail
