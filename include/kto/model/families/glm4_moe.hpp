// SPDX-License-Identifier: Apache-2.0
// GLM-4.5 (arXiv:2508.06471): a shared expert, sigmoid routing by groups, and dense first layers.
#pragma once

#include "kto/model/families/experts.hpp"

namespace kto::detail {

inline ModelSpec read_glm4_moe(const ConfigReader& config) {
  ModelSpec out = read_decoder(config, root_mean_square(config));
  for (LayerSpec& layer : out.layers) {
    layer.attention.qkv_bias = config.flag("attention_bias", false);
    if (config.flag("use_qk_norm", false)) layer.attention.qk_norm = QkNormSpec{.norm = *out.last_norm};
  }
  set_grouped_experts(config, out);
  return out;
}

inline constexpr Family glm4_moe{
    .model_type = "glm4_moe",
    .defaults =
        R"({"vocab_size": 151552, "intermediate_size": 10944, "num_hidden_layers": 46, "num_attention_heads": 96,
            "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
            "partial_rotary_factor": 0.5, "moe_intermediate_size": 1408, "num_experts_per_tok": 8,
            "n_shared_experts": 1, "num_experts": 128, "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1,
            "first_k_dense_replace": 1})",
    .read = read_glm4_moe,
    .other_names = R"({"n_routed_experts": "num_experts", "num_local_experts": "num_experts"})"};

}  // namespace kto::detail
