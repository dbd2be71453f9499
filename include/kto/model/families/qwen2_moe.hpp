// SPDX-License-Identifier: Apache-2.0
// Qwen2's mixture of experts (arXiv:2407.10671), with a shared expert that a gate of its own weighs.
#pragma once

#include "kto/model/families/experts.hpp"

namespace kto::detail {

inline ModelSpec read_qwen2_moe(const ConfigReader& config) {
  ModelSpec out = read_decoder(config, root_mean_square(config));
  const bool slides = config.flag("use_sliding_window", false);
  const std::int64_t first_without = config.integer("max_window_layers");
  const auto of_layers = read_layer_types(config, out, [&](std::size_t i) {
    return slides && !is_nth(i, 2) && static_cast<std::int64_t>(i) < first_without;
  });
  check(slides || std::ranges::find(of_layers, true) == of_layers.end(), config.where,
        ": layer_types has sliding_attention, but use_sliding_window is not true");
  set_windows(config, out, of_layers);
  for (LayerSpec& layer : out.layers) layer.attention.qkv_bias = config.flag("qkv_bias", true);
  ExpertsSpec experts = read_experts(config, out, "moe_intermediate_size");
  experts.router.normalizes = config.flag("norm_topk_prob", false);
  experts.has_shared = experts.weighs_shared = true;
  set_experts(out, experts, sparse_layers(config), config.positive("shared_expert_intermediate_size"));
  return out;
}

inline constexpr Family qwen2_moe{
    .model_type = "qwen2_moe",
    .defaults =
        R"({"vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
            "num_attention_heads": 16, "num_key_value_heads": 16, "max_position_embeddings": 32768,
            "sliding_window": 4096, "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632,
            "num_experts_per_tok": 4, "num_experts": 60, "router_aux_loss_coef": 0.001})",
    .read = read_qwen2_moe};

}  // namespace kto::detail
