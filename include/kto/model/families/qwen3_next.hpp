// SPDX-License-Identifier: Apache-2.0
// Qwen3-Next and the text of Qwen3.5: the gated delta rule (arXiv:2412.06464), and in every fourth layer attention with
// a gate of its output.
#pragma once

#include "kto/model/families/experts.hpp"
#include "kto/model/families/hybrid.hpp"

namespace kto::detail {

inline ModelSpec read_qwen3_5(const ConfigReader& config) {
  const NormSpec norm = root_mean_square(config, /*offset=*/1);
  ModelSpec out = read_decoder(config, norm);
  out.names.layer.mixer = "linear_attn";
  DeltaRuleSpec delta{.num_key_heads = config.positive("linear_num_key_heads"),
                      .num_value_heads = config.positive("linear_num_value_heads"),
                      .key_dim = config.positive("linear_key_head_dim"),
                      .value_dim = config.positive("linear_value_head_dim"),
                      .num_taps = config.positive("linear_conv_kernel_dim"),
                      .activation = out.layers[0].mlp.activation,
                      .norm = root_mean_square(config)};
  check(delta.num_value_heads % delta.num_key_heads == 0, config.where, ": linear_num_value_heads ",
        delta.num_value_heads, " is not a multiple of linear_num_key_heads ", delta.num_key_heads);
  const std::vector<bool> attends = read_linear_layers(config, out);
  for (std::size_t i = 0; i < out.layers.size(); ++i) {
    AttentionSpec& attention = out.layers[i].attention;
    attention.layout = QkvLayout::gated;
    attention.qk_norm = QkNormSpec{.norm = norm};
    attention.qkv_bias = attention.output_bias = config.flag("attention_bias", false);
    if (!attends[i]) out.layers[i].delta_rule = delta;
  }
  return out;
}

inline ModelSpec read_qwen3_next(const ConfigReader& config) {
  ModelSpec out = read_qwen3_5(config);
  for (LayerSpec& layer : out.layers)
    if (layer.delta_rule) layer.delta_rule->is_grouped = true;
  if (config.integer("num_experts") == 0) return out;
  ExpertsSpec experts = read_experts(config, out, "moe_intermediate_size");
  experts.has_shared = experts.weighs_shared = true;
  experts.router.normalizes = config.flag("norm_topk_prob", true);
  set_experts(out, experts, sparse_layers(config), config.positive("shared_expert_intermediate_size"));
  return out;
}

inline constexpr Family qwen3_5{
    .model_type = "qwen3_5_text",
    .defaults = R"({"vocab_size": 248320, "intermediate_size": 12288, "num_attention_heads": 16,
                    "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 32768,
                    "partial_rotary_factor": 0.25, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128,
                    "linear_value_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32})",
    .read = read_qwen3_5};
inline constexpr Family qwen3_next{
    .model_type = "qwen3_next",
    .defaults = R"({"vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 48,
                    "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256,
                    "max_position_embeddings": 32768, "partial_rotary_factor": 0.25, "linear_conv_kernel_dim": 4,
                    "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16,
                    "linear_num_value_heads": 32, "num_experts": 512, "num_experts_per_tok": 10,
                    "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512,
                    "router_aux_loss_coef": 0.001})",
    .read = read_qwen3_next,
    .lora_experts = qwen_lora_experts};

}  // namespace kto::detail
