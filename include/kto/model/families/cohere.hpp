// SPDX-License-Identifier: Apache-2.0
// Command R (cohere) and Command R7B (cohere2, arXiv:2504.00698): attention and feed-forward part in parallel behind one
// LayerNorm without bias, interleaved rotary pairs, scaled logits; in cohere2 windows, and rotary positions only there.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModelSpec read_cohere(const ConfigReader& config) {
  const NormSpec norm = layer_norm(config.number("layer_norm_eps"), /*has_bias=*/false);
  ModelSpec out = read_decoder(config, norm);
  out.head.scale = config.number("logit_scale");
  out.ropes[0].interleaved = true;
  for (LayerSpec& layer : out.layers) {
    layer.is_parallel = true;
    layer.before_mlp.reset();
    layer.attention.qkv_bias = layer.attention.output_bias = config.flag("attention_bias", false);
    if (config.flag("use_qk_norm", false)) layer.attention.qk_norm = QkNormSpec{.norm = norm, .by_head = true};
  }
  return out;
}

inline ModelSpec read_cohere2(const ConfigReader& config) {
  ModelSpec out = read_cohere(config);
  const auto slides = read_windows(config, out, config.positive("sliding_window_pattern", 4));
  for (std::size_t i = 0; i < out.layers.size(); ++i) {
    out.layers[i].attention.qk_norm.reset();
    if (!slides[i]) out.layers[i].attention.rope.reset();
  }
  return out;
}

inline constexpr Family cohere{
    .model_type = "cohere",
    .defaults = R"({"vocab_size": 256000, "hidden_size": 8192, "intermediate_size": 22528, "num_hidden_layers": 40,
                    "num_attention_heads": 64, "max_position_embeddings": 8192, "layer_norm_eps": 1e-5,
                    "logit_scale": 0.0625, "pad_token_id": 0, "tie_word_embeddings": true, "rope_theta": 500000.0})",
    .read = read_cohere};
inline constexpr Family cohere2{
    .model_type = "cohere2",
    .defaults = R"({"vocab_size": 256000, "hidden_size": 8192, "intermediate_size": 22528, "num_hidden_layers": 40,
                    "num_attention_heads": 64, "max_position_embeddings": 8192, "layer_norm_eps": 1e-5,
                    "logit_scale": 0.0625, "pad_token_id": 0, "tie_word_embeddings": true, "sliding_window": 4096})",
    .read = read_cohere2};

}  // namespace kto::detail
