// SPDX-License-Identifier: Apache-2.0
// What families with experts share. Free of LibTorch.
#pragma once

#include <algorithm>
#include <string>

#include "kto/model/families/family.hpp"

namespace kto::detail {

/// Reads num_experts, num_experts_per_tok, the width of an expert under `width`, and router_aux_loss_coef.
inline ExpertsSpec read_experts(const ConfigReader& config, const ModelSpec& spec, const char* width) {
  ExpertsSpec out{.num_experts = config.positive("num_experts"),
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
  return [without, step](std::int64_t i) {
    return (i + 1) % step == 0 && std::ranges::find(without, i) == without.end();
  };
}

/// Mixtral's file names.
inline void name_as_mixtral(ExpertsNames& names) {
  names.stored_router = "block_sparse_moe.gate";
  names.split = "block_sparse_moe.experts.";
  names.split_gate = "w1";
  names.split_up = "w3";
  names.split_down = "w2";
}

}  // namespace kto::detail
