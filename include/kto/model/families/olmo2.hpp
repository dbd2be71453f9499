// SPDX-License-Identifier: Apache-2.0
// OLMo 2 (arXiv:2501.00656) and 3 (arXiv:2512.13961): norms after each part, not before it, and of all queries and keys
// together; OLMo 3 has windows in most layers.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModelSpec read_olmo2(const ConfigReader& config) {
  ModelSpec out = read_decoder(config, root_mean_square(config));
  put_norms_after_parts(out);
  for (LayerSpec& layer : out.layers) {
    layer.attention.qkv_bias = layer.attention.output_bias = config.flag("attention_bias", false);
    layer.attention.qk_norm = QkNormSpec{.norm = *out.last_norm, .over_all_heads = true};
  }
  return out;
}

inline ModelSpec read_olmo3(const ConfigReader& config) {
  const Json json = without_ropes_by_layer_type(config);
  ModelSpec out = read_olmo2({json, config.where});
  const auto slides = read_windows(config, out, 4);
  read_ropes_by_layer_type(config, out, slides, 500000, 500000);
  return out;
}

inline constexpr Family olmo2{
    .model_type = "olmo2",
    .defaults = R"({"vocab_size": 50304, "intermediate_size": 11008, "max_position_embeddings": 2048,
                    "rms_norm_eps": 1e-5, "pad_token_id": 1})",
    .read = read_olmo2};
inline constexpr Family olmo3{
    .model_type = "olmo3",
    .defaults = R"({"vocab_size": 50304, "intermediate_size": 11008, "max_position_embeddings": 2048,
                    "rms_norm_eps": 1e-5, "pad_token_id": 1, "sliding_window": 4096})",
    .read = read_olmo3};

}  // namespace kto::detail
