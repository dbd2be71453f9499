// SPDX-License-Identifier: Apache-2.0
// Reads the rotary position embeddings of a config.json, in either form: "rope_theta" + "rope_scaling", or
// "rope_parameters". Free of LibTorch.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "kto/model/detail/config_reader.hpp"
#include "kto/nn/rope_spec.hpp"

namespace kto {

namespace detail {

inline constexpr std::pair<std::string_view, RopeType> rope_types[] = {{"default", RopeType::plain},
                                                                       {"linear", RopeType::linear},
                                                                       {"dynamic", RopeType::dynamic},
                                                                       {"yarn", RopeType::yarn},
                                                                       {"longrope", RopeType::longrope},
                                                                       {"llama3", RopeType::llama3},
                                                                       {"proportional", RopeType::proportional}};

/// yarn, arXiv:2309.00071, equation 22; with mscale and mscale_all_dim, DeepSeek's variant of it.
inline double yarn_attention_scaling(double factor, double mscale, double mscale_all_dim) {
  const auto scaling = [&](double m) { return factor <= 1 ? 1.0 : 0.1 * m * std::log(factor) + 1.0; };
  return mscale != 0 && mscale_all_dim != 0 ? scaling(mscale) / scaling(mscale_all_dim) : scaling(1);
}

/// longrope, arXiv:2402.13753.
inline double longrope_attention_scaling(double factor, double original_max_positions) {
  return factor <= 1 ? 1.0 : std::sqrt(1 + std::log(factor) / std::log(original_max_positions));
}

}  // namespace detail

namespace detail {

/// The object with the rotary parameters (empty if there is none) and its place for messages.
struct RopeValues {
  Json json;
  std::string where;
  ConfigReader reader() const { return {json, where}; }
};

inline RopeValues read_rope_values(const ConfigReader& config) {
  const auto filled = [&](const char* key) { return config.has(key) && !config.json.at(key).empty(); };
  const std::string key = filled("rope_scaling") ? "rope_scaling" : "rope_parameters";
  return {filled(key.c_str()) ? config.json.at(key) : Json::object(), concat(config.where, ": ", key)};
}

}  // namespace detail

/// Reads the rotary embedding of a config.json, with transformers' defaults. Throws Error for anything unsupported.
inline RopeConfig read_rope_config(const detail::ConfigReader& config, std::int64_t head_dim) {
  const detail::RopeValues found = detail::read_rope_values(config);
  const Json& values = found.json;
  const detail::ConfigReader rope = found.reader();
  check(values.is_object(), rope.where, ": expected an object, got ", detail::shown(values));
  for (const auto& [name, value] : values.items())
    check(!value.is_object(), rope.where, ": parameters per layer type (\"", name, "\") are not supported");

  RopeConfig out;
  const double share =
      rope.positive_number("partial_rotary_factor", config.positive_number("partial_rotary_factor", 1));
  const std::string type = rope.text("rope_type", rope.text("type", "default"));
  out.type = rope.choice("rope_type", type, detail::rope_types);
  const double rotated = static_cast<double>(head_dim) * share;
  out.dim = out.type == RopeType::proportional ? head_dim : static_cast<std::int64_t>(rotated);
  check(share <= 1 && out.dim > 0 && out.dim % 2 == 0, config.where, ": rotary embeddings of ", out.dim, " of the ",
        head_dim, " coordinates of a head; expected an even number of them");
  out.theta = rope.positive_number("rope_theta", config.positive_number("rope_theta", 10000));
  out.max_positions = config.positive("max_position_embeddings");
  out.original_max_positions = config.positive("original_max_position_embeddings",
                                               rope.positive("original_max_position_embeddings", out.max_positions));
  const double length_ratio = static_cast<double>(out.max_positions) / static_cast<double>(out.original_max_positions);
  const auto is = [&](auto... types) { return ((out.type == types) || ...); };
  using enum RopeType;
  if (is(linear, dynamic, yarn, llama3))
    check(values.contains("factor") && (is(yarn) || rope.has("factor")), rope.where, ": rope_type ", type,
          " needs \"factor\"");
  if (!is(plain)) out.factor = rope.positive_number("factor", is(proportional) ? 1 : length_ratio);
  if (is(proportional)) out.num_frequencies = static_cast<std::int64_t>(rotated / 2);
  if (is(yarn)) {
    out.attention_scaling = rope.number(
        "attention_factor",
        detail::yarn_attention_scaling(out.factor, rope.number("mscale", 0), rope.number("mscale_all_dim", 0)));
    const auto or_default = [](double value, double otherwise) { return value == 0 ? otherwise : value; };
    out.yarn.beta_fast = or_default(rope.number("beta_fast", 0), 32);
    out.yarn.beta_slow = or_default(rope.number("beta_slow", 0), 1);
    out.yarn.truncate = values.contains("truncate") && rope.flag("truncate", false);  // null is false, as in Python
    if (!values.contains("truncate")) out.yarn.truncate = true;
  } else if (is(longrope)) {
    const auto original = static_cast<double>(out.original_max_positions);
    out.attention_scaling = rope.number("attention_factor", detail::longrope_attention_scaling(out.factor, original));
    out.short_factor = rope.numbers("short_factor", out.dim / 2);
    out.long_factor = rope.numbers("long_factor", out.dim / 2);
  } else if (is(llama3)) {
    out.low_freq_factor = rope.positive_number("low_freq_factor");
    out.high_freq_factor = rope.positive_number("high_freq_factor");
    check(out.low_freq_factor != out.high_freq_factor, rope.where, ": low_freq_factor equals high_freq_factor");
  }
  return out;
}

}  // namespace kto
