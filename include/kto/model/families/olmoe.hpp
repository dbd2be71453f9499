// SPDX-License-Identifier: Apache-2.0
// OLMoE (arXiv:2409.02060): queries and keys are normalised over all heads, and clamped after that.
#pragma once

#include "kto/model/families/experts.hpp"

namespace kto::detail {

inline ModelSpec read_olmoe(const ConfigReader& config) {
  ModelSpec out = read_decoder(config, root_mean_square(config));
  for (LayerSpec& layer : out.layers) {
    layer.attention.qkv_bias = layer.attention.output_bias = config.flag("attention_bias", false);
    layer.attention.qk_norm = QkNormSpec{.norm = *out.last_norm, .over_all_heads = true};
    if (config.has("clip_qkv")) layer.attention.clip_qkv = config.positive_number("clip_qkv");
  }
  ExpertsSpec experts = read_experts(config, out, "intermediate_size");
  experts.router.normalizes = config.flag("norm_topk_prob", false);
  set_experts(out, experts, in_all_layers);
  return out;
}

inline constexpr Family olmoe{
    .model_type = "olmoe",
    .defaults =
        R"({"vocab_size": 50304, "hidden_size": 2048, "intermediate_size": 2048, "num_hidden_layers": 16,
            "num_attention_heads": 16, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "pad_token_id": 1,
            "num_experts_per_tok": 8, "num_experts": 64, "router_aux_loss_coef": 0.01})",
    .read = read_olmoe,
    .other_names = R"({"num_local_experts": "num_experts"})"};

}  // namespace kto::detail
