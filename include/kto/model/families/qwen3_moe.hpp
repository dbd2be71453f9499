// SPDX-License-Identifier: Apache-2.0
// Qwen3's mixture of experts (arXiv:2505.09388): as Qwen3, with experts in all layers or some of them.
#pragma once

#include "kto/model/families/experts.hpp"

namespace kto::detail {

inline ModelSpec read_qwen3_moe(const ConfigReader& config) {
  ModelSpec out = read_decoder(config, root_mean_square(config));
  read_window_of_all(config, out, config.flag("use_sliding_window", false));
  for (LayerSpec& layer : out.layers) {
    layer.attention.qk_norm = QkNormSpec{.norm = *layer.before_attention};
    layer.attention.qkv_bias = layer.attention.output_bias = config.flag("attention_bias", false);
  }
  ExpertsSpec experts = read_experts(config, out, "moe_intermediate_size");
  experts.router.normalizes = config.flag("norm_topk_prob", false);
  set_experts(out, experts, sparse_layers(config));
  return out;
}

inline constexpr Family qwen3_moe{
    .model_type = "qwen3_moe",
    .defaults =
        R"({"vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 24,
            "num_key_value_heads": 4, "max_position_embeddings": 32768, "sliding_window": 4096,
            "moe_intermediate_size": 768, "num_experts_per_tok": 8, "num_experts": 128,
            "router_aux_loss_coef": 0.001})",
    .read = read_qwen3_moe,
    .other_names = R"({"num_local_experts": "num_experts"})"};

}  // namespace kto::detail
