// SPDX-License-Identifier: Apache-2.0
// Mixtral (arXiv:2401.04088).
#pragma once

#include "kto/model/families/experts.hpp"

namespace kto::detail {

inline ModelSpec read_mixtral(const ConfigReader& config) {
  refuse_noise(config, "router_jitter_noise");
  ModelSpec out = read_decoder(config, root_mean_square(config));
  read_window_of_all(config, out, /*slides=*/true);
  ExpertsSpec experts = read_experts(config, out, "intermediate_size");
  experts.router.normalizes = true;
  set_experts(out, experts, in_all_layers);
  name_as_mixtral(out.names.layer.experts);
  return out;
}

inline constexpr Family mixtral{
    .model_type = "mixtral",
    .defaults =
        R"({"vocab_size": 32000, "intermediate_size": 14336, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131072, "rope_theta": 1000000.0, "num_experts_per_tok": 2, "num_experts": 8,
            "router_aux_loss_coef": 0.001})",
    .read = read_mixtral,
    .other_names = R"({"num_local_experts": "num_experts"})",
    .lora_targets = R"(["q_proj", "v_proj"])"};

}  // namespace kto::detail
