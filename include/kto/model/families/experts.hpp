// SPDX-License-Identifier: Apache-2.0
// What families with experts share. Free of LibTorch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kto/model/families/family.hpp"

namespace kto::detail {

/// Reads the number of experts and the width of one under these keys, num_experts_per_tok, and router_aux_loss_coef.
inline ExpertsSpec read_experts(const ConfigReader& config, const ModelSpec& spec, const char* width,
                                const char* count = "num_experts") {
  ExpertsSpec out{.num_experts = config.positive(count),
                  .per_token = config.positive("num_experts_per_tok"),
                  .intermediate_size = config.positive(width)};
  check(out.per_token <= out.num_experts, config.where, ": num_experts_per_tok ", out.per_token,
        " is more than the number of experts, ", out.num_experts);
  out.gate.activation = spec.layers.front().mlp.activation;
  if (config.has("router_aux_loss_coef")) out.router.aux_loss_coef = config.number("router_aux_loss_coef");
  return out;
}

/// Gives these experts to the layers that have some: has_experts(i), counted from 0. Where they have a shared expert,
/// its width is `shared_size`.
template <class HasExperts>
void set_experts(ModelSpec& spec, const ExpertsSpec& experts, const HasExperts& has_experts,
                 std::int64_t shared_size = 0) {
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    if (!has_experts(static_cast<std::int64_t>(i))) continue;
    spec.layers[i].experts = experts;
    spec.layers[i].mlp.intermediate_size = shared_size;
  }
}
inline bool in_all_layers(std::int64_t) { return true; }

/// Where mlp_only_layers and decoder_sparse_step put experts.
inline auto sparse_layers(const ConfigReader& config) {
  std::vector<std::int64_t> without;
  if (config.has("mlp_only_layers")) {
    const Json& list = config.json.at("mlp_only_layers");
    check(list.is_array() && std::ranges::all_of(list, [](const Json& item) { return item.is_number_integer(); }),
          config.where, ": \"mlp_only_layers\" must be a list of integers, got ", shown(list));
    without = list.get<std::vector<std::int64_t>>();
  }
  const std::int64_t step = config.positive("decoder_sparse_step", 1);
  return
      [without, step](std::int64_t i) { return (i + 1) % step == 0 && std::ranges::find(without, i) == without.end(); };
}

/// Refuses noise on the router's input: it is random where transformers trains.
inline void refuse_noise(const ConfigReader& config, const char* key) {
  check(config.number(key, 0) == 0, config.where, ": \"", key, "\" other than 0 is not supported");
}

/// DeepSeek-V3's experts (arXiv:2412.19437), as GLM has them too: sigmoid routing by groups, shared experts as one, and
/// first_k_dense_replace dense layers.
inline void set_grouped_experts(const ConfigReader& config, ModelSpec& spec) {
  ExpertsSpec experts = read_experts(config, spec, "moe_intermediate_size");
  experts.router = {.routing = Routing::sigmoid_groups,
                    .normalizes = config.flag("norm_topk_prob", true),
                    .scale = config.number("routed_scaling_factor"),
                    .num_groups = config.positive("n_group"),
                    .top_groups = config.positive("topk_group")};
  const auto& [routing, has_bias, normalizes, scale, groups, top_groups, jitter, aux_loss_coef] = experts.router;
  check(experts.num_experts % groups == 0 && experts.num_experts / groups >= 2, config.where, ": ", groups,
        " groups (n_group) of ", experts.num_experts, " experts; expected groups of equal size, at least 2");
  check(top_groups <= groups && experts.per_token <= top_groups * (experts.num_experts / groups), config.where,
        ": topk_group ", top_groups, " of ", groups, " groups do not have num_experts_per_tok ", experts.per_token,
        " experts");
  experts.has_shared = true;
  const std::int64_t first = config.integer("first_k_dense_replace");
  set_experts(
      spec, experts, [&](std::int64_t i) { return i >= first; },
      experts.intermediate_size * config.positive("n_shared_experts"));
  ExpertsNames& names = spec.names.layer.experts;
  names.shared_gate = "mlp.shared_experts.gate_proj";
  names.shared_up = "mlp.shared_experts.up_proj";
  names.shared_down = "mlp.shared_experts.down_proj";
  spec.names.has_layer_after_last = true;
}

inline constexpr const char* qwen_lora_experts = R"(["gate", "gate_proj", "up_proj", "down_proj"])";

/// Mixtral's file names.
inline void name_as_mixtral(ExpertsNames& names) {
  names.stored_router = "block_sparse_moe.gate";
  names.split = "block_sparse_moe.experts.";
  names.split_gate = "w1";
  names.split_up = "w3";
  names.split_down = "w2";
}

}  // namespace kto::detail
