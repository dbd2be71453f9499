// SPDX-License-Identifier: Apache-2.0
// GPT-J (EleutherAI): attention and feed-forward part in parallel behind one LayerNorm, interleaved rotary pairs on the
// first coordinates of each head.
#pragma once

#include "kto/model/families/gpt2.hpp"

namespace kto::detail {

inline ModuleNames gptj_names() {
  ModuleNames out;
  out.embedding = "transformer.wte";
  out.layers = "transformer.h.";
  out.last_norm = "transformer.ln_f";
  out.prefix = "transformer.";
  out.layer.attention = {.q = "attn.q_proj", .k = "attn.k_proj", .v = "attn.v_proj", .output = "attn.out_proj"};
  out.layer.up = "mlp.fc_in";
  out.layer.down = "mlp.fc_out";
  out.layer.before_attention = "ln_1";
  return out;
}

inline ModelSpec read_gptj(const ConfigReader& config) {
  const Json json = without_keys(older_keys(config),
                                 {"head_dim", "num_key_value_heads", "rope_theta", "rope_scaling", "rope_parameters"});
  ModelSpec out = read_decoder({json, config.where}, layer_norm(config.number("layer_norm_epsilon"), true));
  out.names = gptj_names();
  out.head.has_bias = true;
  RopeConfig& rope = out.ropes[0];
  rope.dim = config.positive("rotary_dim");
  rope.interleaved = true;
  check(rope.dim % 2 == 0 && rope.dim <= out.layers[0].attention.head_dim, config.where, ": \"rotary_dim\" is ",
        rope.dim, "; expected an even number of at most ", out.layers[0].attention.head_dim);
  for (LayerSpec& layer : out.layers) {
    layer.is_parallel = true;
    layer.before_mlp.reset();
    layer.mlp.is_gated = false;
    layer.mlp.bias = true;
  }
  return out;
}

inline constexpr Family gptj{
    .model_type = "gptj",
    .defaults = R"({"vocab_size": 50400, "hidden_size": 4096, "num_hidden_layers": 28, "num_attention_heads": 16,
                    "hidden_act": "gelu_new", "max_position_embeddings": 2048, "layer_norm_epsilon": 1e-5,
                    "rotary_dim": 64})",
    .read = read_gptj,
    .other_names = gpt2_other_names,
    .lora_targets = R"(["q_proj", "v_proj"])"};

}  // namespace kto::detail
