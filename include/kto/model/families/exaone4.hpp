// SPDX-License-Identifier: Apache-2.0
// EXAONE 4.0 (arXiv:2507.11407): norms after each part, not before it, and of queries and keys; where most layers have
// windows, only those have rotary positions.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

inline ModelSpec read_exaone4(const ConfigReader& config) {
  const NormSpec norm = root_mean_square(config);
  ModelSpec out = read_decoder(config, norm);
  put_norms_after_parts(out);
  const bool has_windows = config.has("sliding_window");
  const auto slides = read_layer_types(
      config, out, [&](std::size_t i) { return has_windows && !is_nth(i, config.positive("sliding_window_pattern")); });
  set_windows(config, out, slides);
  for (std::size_t i = 0; i < out.layers.size(); ++i) {
    LayerSpec& layer = out.layers[i];
    layer.attention.qk_norm = QkNormSpec{.norm = norm};
    if (has_windows && !slides[i]) layer.attention.rope.reset();
  }
  return out;
}

inline constexpr Family exaone4{
    .model_type = "exaone4",
    .defaults = R"({"vocab_size": 102400, "intermediate_size": 16384, "num_key_value_heads": 32,
                    "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "sliding_window": 4096,
                    "sliding_window_pattern": 4})",
    .read = read_exaone4};

}  // namespace kto::detail
