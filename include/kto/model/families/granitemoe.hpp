// SPDX-License-Identifier: Apache-2.0
// Granite 3's mixture of experts: as Granite, with experts whose files hold them fused under names of their own.
#pragma once

#include "kto/model/families/experts.hpp"
#include "kto/model/families/granite.hpp"

namespace kto::detail {

inline ModelSpec read_granitemoe(const ConfigReader& config) {
  const Json json = without_keys(config.json, {"mlp_bias"});  // experts have none
  ModelSpec out = read_granite({json, config.where});
  ExpertsSpec experts = read_experts(config, out, "intermediate_size");
  experts.router.routing = Routing::softmax_last;
  set_experts(out, experts, in_all_layers);
  ExpertsNames& names = out.names.layer.experts;
  names.router = "block_sparse_moe.router";
  names.experts = "block_sparse_moe.experts";
  names.stored_router = "block_sparse_moe.router.layer";
  names.stored_gate_up = "block_sparse_moe.input_linear.weight";
  names.stored_down = "block_sparse_moe.output_linear.weight";
  return out;
}

inline constexpr Family granitemoe{
    .model_type = "granitemoe",
    .defaults =
        R"({"vocab_size": 32000, "intermediate_size": 11008, "max_position_embeddings": 2048, "num_experts": 8,
            "num_experts_per_tok": 2, "router_aux_loss_coef": 0.001})",
    .read = read_granitemoe,
    .other_names = R"({"num_local_experts": "num_experts"})"};

}  // namespace kto::detail
