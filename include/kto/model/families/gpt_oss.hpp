// SPDX-License-Identifier: Apache-2.0
// gpt-oss (arXiv:2508.10925): attention with sinks and alternating windows, experts with biases and a clamped gate.
#pragma once

#include "kto/model/families/experts.hpp"

namespace kto::detail {

inline ModelSpec read_gpt_oss(const ConfigReader& config) {
  const Json json = with_rope(config, R"({"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
      "truncate": false, "original_max_position_embeddings": 4096})");
  const ConfigReader completed{json, config.where};
  ModelSpec out = read_decoder(completed, root_mean_square(completed));
  read_windows(config, out, 2);
  for (LayerSpec& layer : out.layers) {
    layer.attention.qkv_bias = layer.attention.output_bias = config.flag("attention_bias", true);
    layer.attention.has_sinks = true;
  }
  ExpertsSpec experts = read_experts(config, out, "intermediate_size");
  experts.router.routing = Routing::softmax_last;
  experts.router.has_bias = experts.has_bias = experts.is_transposed = true;
  experts.gate = {.is_interleaved = true,
                  .is_clamped = true,
                  .alpha = config.number("swiglu_alpha", 1.702),
                  .limit = config.number("swiglu_limit", 7)};
  set_experts(out, experts, in_all_layers);
  out.names.layer.experts.router = "mlp.router";
  return out;
}

inline constexpr Family gpt_oss{
    .model_type = "gpt_oss",
    .defaults =
        R"({"vocab_size": 201088, "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 36,
            "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131072, "rope_theta": 150000.0, "sliding_window": 128,
            "num_experts_per_tok": 4, "num_experts": 128, "router_aux_loss_coef": 0.001})",
    .read = read_gpt_oss,
    .other_names = R"({"num_local_experts": "num_experts"})"};

}  // namespace kto::detail
