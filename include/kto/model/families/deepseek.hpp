// SPDX-License-Identifier: Apache-2.0
// DeepSeek-V3 (arXiv:2412.19437): latent attention, and experts as glm4_moe has them.
#pragma once

#include "kto/model/families/experts.hpp"

namespace kto::detail {

/// The factor of the scores. Where frequencies are stretched, mscale_all_dim adds yarn's factor of queries and of keys.
inline double latent_score_scale(const ConfigReader& config, const RopeConfig& rope, std::int64_t head_dim) {
  const double plain = 1 / std::sqrt(static_cast<double>(head_dim));
  const RopeValues values = read_rope_values(config);
  const double mscale = values.reader().number("mscale_all_dim", 0);
  if (rope.type == RopeType::plain || mscale == 0) return plain;
  const double grown = rope.factor <= 1 ? 1 : 0.1 * mscale * std::log(rope.factor) + 1;
  return plain * grown * grown;
}

inline LatentSpec read_latent(const ConfigReader& config) {
  LatentSpec out{.rank = config.positive("kv_lora_rank"),
                 .rope_dim = config.positive("qk_rope_head_dim"),
                 .value_dim = config.positive("v_head_dim"),
                 .norm = {.eps = 1e-6},
                 .bias = config.flag("attention_bias", false)};
  if (config.has("q_lora_rank")) out.query_rank = config.positive("q_lora_rank");
  return out;
}

/// A decoder with latent attention and dense feed-forward parts.
inline ModelSpec read_latent_decoder(const ConfigReader& config, bool interleaved) {
  const LatentSpec latent = read_latent(config);
  Json json = config.json;
  json["head_dim"] = latent.rope_dim;  // what rotary frequencies are for
  ModelSpec out = read_decoder({json, config.where}, root_mean_square(config));
  read_window_of_all(config, out, /*slides=*/false);
  out.ropes[0].interleaved = interleaved;
  for (LayerSpec& layer : out.layers) {
    AttentionSpec& attention = layer.attention;
    check(attention.num_kv_heads == attention.num_heads, config.where, ": num_key_value_heads is ",
          attention.num_kv_heads, "; latent attention has as many as num_attention_heads, ", attention.num_heads);
    attention.head_dim = config.positive("qk_nope_head_dim") + latent.rope_dim;
    attention.scale = latent_score_scale(config, out.ropes[0], attention.head_dim);
    attention.output_bias = latent.bias;
    attention.latent = latent;
  }
  return out;
}

inline ModelSpec read_deepseek_v3(const ConfigReader& config) {
  const std::int64_t rope_dim = config.positive("qk_rope_head_dim"), head_dim = config.positive("head_dim", rope_dim);
  check(head_dim == rope_dim, config.where, ": head_dim is ", head_dim, "; expected qk_rope_head_dim, ", rope_dim);
  ModelSpec out = read_latent_decoder(config, config.flag("rope_interleave", true));
  set_grouped_experts(config, out);
  return out;
}

inline constexpr Family deepseek_v3{
    .model_type = "deepseek_v3",
    .defaults = R"({"vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61,
                    "num_attention_heads": 128, "num_key_value_heads": 128, "kv_lora_rank": 512, "q_lora_rank": 1536,
                    "qk_rope_head_dim": 64, "v_head_dim": 128, "qk_nope_head_dim": 128, "first_k_dense_replace": 3,
                    "max_position_embeddings": 4096, "moe_intermediate_size": 2048, "num_experts_per_tok": 8,
                    "n_shared_experts": 1, "num_experts": 256, "routed_scaling_factor": 2.5, "n_group": 8,
                    "topk_group": 4})",
    .read = read_deepseek_v3,
    .other_names = R"({"n_routed_experts": "num_experts", "num_local_experts": "num_experts"})",
    .lora_experts = qwen_lora_experts};

}  // namespace kto::detail
