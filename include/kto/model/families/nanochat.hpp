// SPDX-License-Identifier: Apache-2.0
// nanochat (Karpathy): norms without weights, also of the embeddings and of queries and keys after their rotation, which
// goes backwards; a feed-forward part without gate, and capped logits.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModelSpec read_nanochat(const ConfigReader& config) {
  NormSpec norm = root_mean_square(config);
  norm.has_weight = false;
  ModelSpec out = read_decoder(config, norm);
  out.names.layer.up = "mlp.fc1";
  out.names.layer.down = "mlp.fc2";
  out.embedding_norm = norm;
  out.head.soft_cap = config.number("final_logit_softcapping", 0);
  out.ropes[0].backwards = true;
  for (LayerSpec& layer : out.layers) {
    layer.attention.qk_norm = QkNormSpec{.norm = norm, .after_rope = true};
    layer.attention.qkv_bias = layer.attention.output_bias = config.flag("attention_bias", false);
    layer.mlp.is_gated = false;
  }
  return out;
}

inline constexpr Family nanochat{
    .model_type = "nanochat",
    .defaults = R"({"vocab_size": 50304, "hidden_size": 768, "intermediate_size": 8192, "num_hidden_layers": 12,
                    "num_attention_heads": 6, "hidden_act": "relu2", "max_position_embeddings": 2048,
                    "pad_token_id": 1, "final_logit_softcapping": 15.0})",
    .read = read_nanochat};

}  // namespace kto::detail
