// SPDX-License-Identifier: Apache-2.0
// Phi-3.5-MoE (arXiv:2404.14219), with SparseMixer routing (arXiv:2409.12136) as transformers has it in evaluation:
// without sampling.
#pragma once

#include "kto/model/families/experts.hpp"

namespace kto::detail {

/// transformers 5.24 uses longrope's short factors for every length, and one of two scalings of cos and sin by length.
inline void read_phimoe_rope(const ConfigReader& config, RopeConfig& rope) {
  if (rope.type == RopeType::plain) return;
  const RopeValues values = read_rope_values(config);
  check(rope.type == RopeType::longrope, values.where,
        ": only rope_type default and longrope are supported for phimoe");
  const double scaling = values.reader().number("short_mscale");
  check(scaling == values.reader().number("long_mscale"), values.where,
        ": long_mscale other than short_mscale is not supported");
  rope.attention_scaling = scaling;
  rope.long_factor = rope.short_factor;
}

inline ModelSpec read_phimoe(const ConfigReader& config) {
  refuse_noise(config, "input_jitter_noise");
  ModelSpec out = read_decoder(config, layer_norm(config.number("rms_norm_eps"), /*has_bias=*/true));
  read_phimoe_rope(config, out.ropes[0]);
  read_window_of_all(config, out, /*slides=*/true);
  out.head.has_bias = config.flag("lm_head_bias", false);
  for (LayerSpec& layer : out.layers)
    layer.attention.qkv_bias = layer.attention.output_bias = config.flag("attention_bias", false);
  ExpertsSpec experts = read_experts(config, out, "intermediate_size");
  check(experts.per_token == 2, config.where, ": num_experts_per_tok other than 2 is not supported for phimoe");
  experts.router.routing = Routing::sparse_mixer;
  experts.router.jitter = config.number("router_jitter_noise", 0.01);
  set_experts(out, experts, in_all_layers);
  name_as_mixtral(out.names.layer.experts);
  out.names.layer.experts.router = "mlp.router";
  return out;
}

inline constexpr Family phimoe{
    .model_type = "phimoe",
    .defaults =
        R"({"vocab_size": 32064, "intermediate_size": 6400, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131072, "rope_theta": 1000000.0, "num_experts_per_tok": 2, "num_experts": 16,
            "router_aux_loss_coef": 0.001})",
    .read = read_phimoe,
    .other_names = R"({"num_local_experts": "num_experts"})"};

}  // namespace kto::detail
