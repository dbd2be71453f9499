// SPDX-License-Identifier: Apache-2.0
// StableLM (arXiv:2402.17834): llama with LayerNorm and rotary positions on a quarter of each head, maybe with
// attention and feed-forward part in parallel.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModelSpec read_stablelm(const ConfigReader& config) {
  check(!config.flag("qk_layernorm", false), config.where, ": \"qk_layernorm\": true is not supported");
  const Json json = without_keys(config.json, {"head_dim"});  // always hidden_size / num_attention_heads
  ModelSpec out = read_decoder({json, config.where}, layer_norm(config.number("layer_norm_eps"), /*has_bias=*/true));
  for (LayerSpec& layer : out.layers) {
    layer.attention.qkv_bias = config.flag("use_qkv_bias", false);
    layer.is_parallel = config.flag("use_parallel_residual", false);
    if (layer.is_parallel) layer.before_mlp.reset();
  }
  return out;
}

inline constexpr Family stablelm{
    .model_type = "stablelm",
    .defaults = R"({"vocab_size": 50304, "hidden_size": 2560, "intermediate_size": 6912, "num_key_value_heads": 32,
                    "max_position_embeddings": 4096, "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25})",
    .read = read_stablelm,
    .lora_targets = R"(["q_proj", "v_proj"])"};

}  // namespace kto::detail
