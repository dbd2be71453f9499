// SPDX-License-Identifier: Apache-2.0
// What families share in which some layers have attention and others another mixer.
#pragma once

#include "kto/model/families/family.hpp"

namespace kto::detail {

/// Whether each layer has attention, as layer_types says: "full_attention", or else `other`.
inline std::vector<bool> read_mixer_types(const ConfigReader& config, const ModelSpec& spec, std::string_view other) {
  const std::pair<std::string_view, bool> known[] = {{"full_attention", true}, {other, false}};
  std::vector<bool> out;
  for (const std::string& name : config.texts("layer_types", static_cast<std::int64_t>(spec.layers.size())))
    out.push_back(config.choice("layer_types entry", name, known));
  return out;
}

/// The same where full attention is in every full_attention_interval-th layer if layer_types is missing.
inline std::vector<bool> read_linear_layers(const ConfigReader& config, const ModelSpec& spec) {
  if (config.has("layer_types")) return read_mixer_types(config, spec, "linear_attention");
  const std::int64_t interval = config.positive("full_attention_interval", 4);
  std::vector<bool> out;
  for (std::size_t i = 0; i < spec.layers.size(); ++i) out.push_back(is_nth(i, interval));
  return out;
}

}  // namespace kto::detail
