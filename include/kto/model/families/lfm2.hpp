// SPDX-License-Identifier: Apache-2.0
// LFM2 (arXiv:2511.23404): gated short convolutions, and attention in some layers.
#pragma once

#include "kto/model/families/hybrid.hpp"

namespace kto::detail {

/// The layers' feed-forward width: block_auto_adjust_ff_dim takes two thirds of what the file says, times a factor,
/// rounded up to a multiple.
inline std::int64_t lfm2_intermediate_size(const ConfigReader& config) {
  const std::int64_t named = config.positive("intermediate_size");
  if (!config.flag("block_auto_adjust_ff_dim", true)) return named;
  const auto size = static_cast<std::int64_t>(2 * static_cast<double>(named) / 3);
  if (!config.has("block_ffn_dim_multiplier")) return size;
  const double scaled = config.positive_number("block_ffn_dim_multiplier") * static_cast<double>(size);
  const std::int64_t multiple = config.positive("block_multiple_of");
  return (static_cast<std::int64_t>(scaled) + multiple - 1) / multiple * multiple;
}

/// Whether each layer has attention, where layer_types is missing.
inline std::vector<bool> lfm2_attention_layers(const ConfigReader& config, std::size_t num_layers) {
  if (!config.has("full_attn_idxs")) return std::vector<bool>(num_layers, true);
  std::vector<bool> out(num_layers, false);
  for (const std::int64_t i : config.integers("full_attn_idxs"))
    if (i >= 0 && i < static_cast<std::int64_t>(num_layers)) out[static_cast<std::size_t>(i)] = true;
  return out;
}

inline ModelSpec read_lfm2(const ConfigReader& config) {
  Json json = without_keys(config.json, {"hidden_act"});
  json["hidden_act"] = "silu";
  json["intermediate_size"] = lfm2_intermediate_size(config);
  const NormSpec norm = root_mean_square(config);
  ModelSpec out = read_decoder({json, config.where}, norm);
  out.names.last_norm = "model.embedding_norm";
  LayerNames& names = out.names.layer;
  names.attention.output = "self_attn.out_proj";
  names.attention.q_norm = "self_attn.q_layernorm";
  names.attention.k_norm = "self_attn.k_layernorm";
  names.mixer = "conv";
  names.gate = "feed_forward.w1";
  names.up = "feed_forward.w3";
  names.down = "feed_forward.w2";
  names.before_attention = "operator_norm";
  names.before_mlp = "ffn_norm";
  const std::vector<bool> attends = config.has("layer_types") ? read_mixer_types(config, out, "conv")
                                                              : lfm2_attention_layers(config, out.layers.size());
  for (std::size_t i = 0; i < out.layers.size(); ++i) {
    out.layers[i].attention.qk_norm = QkNormSpec{.norm = norm};
    if (!attends[i])
      out.layers[i].short_conv = {.num_taps = config.positive("conv_L_cache"),
                                  .has_bias = config.flag("conv_bias", false)};
  }
  return out;
}

inline constexpr Family lfm2{
    .model_type = "lfm2",
    .defaults = R"({"vocab_size": 65536, "hidden_size": 2560, "intermediate_size": 12288, "num_key_value_heads": 8,
                    "max_position_embeddings": 128000, "rms_norm_eps": 1e-5, "pad_token_id": 0,
                    "tie_word_embeddings": true, "conv_L_cache": 3, "block_multiple_of": 256,
                    "block_ffn_dim_multiplier": 1.0, "rope_theta": 1000000.0})",
    .read = read_lfm2,
    .other_names = R"({"norm_eps": "rms_norm_eps", "block_ff_dim": "intermediate_size",
                       "tie_embedding": "tie_word_embeddings"})"};

}  // namespace kto::detail
