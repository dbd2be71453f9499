// SPDX-License-Identifier: Apache-2.0
// Hunyuan's dense models (Tencent): llama with norms of queries and keys after the rotary positions, which may be
// stretched by a fixed alpha.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModelSpec read_hunyuan_v1_dense(const ConfigReader& config) {
  const NormSpec norm = root_mean_square(config);
  ModelSpec out = read_decoder(config, norm);
  out.names.layer.attention.q_norm = "self_attn.query_layernorm";
  out.names.layer.attention.k_norm = "self_attn.key_layernorm";
  const RopeValues rope_values = read_rope_values(config);
  RopeConfig& rope = out.ropes[0];
  if (const double alpha = rope_values.reader().number("alpha", 0); rope.type == RopeType::dynamic && alpha != 0) {
    check(alpha > 0 && rope.dim > 2, config.where, ": \"alpha\" must be a positive number, got ", alpha);
    const auto dim = static_cast<double>(rope.dim);
    rope.theta *= std::pow(alpha, dim / (dim - 2));
    rope.type = RopeType::plain;
    rope.factor = 1;
  }
  for (LayerSpec& layer : out.layers) {
    layer.attention.qk_norm = QkNormSpec{.norm = norm, .after_rope = true};
    layer.attention.qkv_bias = layer.attention.output_bias = config.flag("attention_bias", false);
  }
  return out;
}

inline constexpr Family hunyuan_v1_dense{
    .model_type = "hunyuan_v1_dense",
    .defaults = R"({"vocab_size": 290943, "intermediate_size": 11008, "max_position_embeddings": 2048,
                    "rms_norm_eps": 1e-5, "pad_token_id": 0})",
    .read = read_hunyuan_v1_dense};

}  // namespace kto::detail
