// SPDX-License-Identifier: Apache-2.0
// What a LoRA adapter is (arXiv:2106.09685; rsLoRA arXiv:2312.03732; DoRA arXiv:2402.09353), read from and written to
// PEFT's adapter_config.json. What PEFT has and this library has not is refused by name. Free of LibTorch.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/io/json.hpp"
#include "kto/text/detail/regex.hpp"

namespace kto {

/// Values for the modules whose path ends in a key, a regular expression; the first key that matches counts.
template <class Value>
using ModulePatterns = std::vector<std::pair<std::string, Value>>;

struct LoraConfig {
  std::int64_t r = 16;
  double lora_alpha = 32;
  double lora_dropout = 0.05;
  std::vector<std::string> target_modules = {};  ///< names: the last parts of module paths
  std::string target_pattern = "";               ///< in place of names: "all-linear", or a regular expression of a path
  std::vector<std::string> exclude_modules = {};
  std::vector<std::string> modules_to_save = {};  ///< trained whole, beside the adapter
  bool use_rslora = false;
  bool use_dora = false;
  ModulePatterns<std::int64_t> rank_pattern = {};  ///< in place of r
  ModulePatterns<double> alpha_pattern = {};       ///< in place of lora_alpha
  std::string task_type = "CAUSAL_LM";
  std::string base_model_name_or_path = "";

  std::int64_t rank_of(const std::string& module) const { return pattern_value(rank_pattern, module, r); }
  /// The factor on B A.
  double scaling_of(const std::string& module) const {
    const auto rank = static_cast<double>(rank_of(module));
    return pattern_value(alpha_pattern, module, lora_alpha) / (use_rslora ? std::sqrt(rank) : rank);
  }
  /// Whether a linear layer gets an adapter, after PEFT's rules; `module` is its path ("model.layers.0.mlp.up_proj").
  bool targets(const std::string& module) const {
    if (names_end(exclude_modules, module) || saves(module)) return false;
    if (target_pattern == "all-linear") return module != "lm_head";
    if (!target_pattern.empty()) return matches("^(?:" + target_pattern + ")$", module);
    return names_end(target_modules, module);
  }
  bool saves(const std::string& module) const {
    for (const std::string& name : modules_to_save)
      if (module.ends_with(name)) return true;
    return false;
  }

  static bool ends_in(const std::string& module, const std::string& name) {
    return module == name || module.ends_with("." + name);
  }

 private:
  static bool names_end(const std::vector<std::string>& names, const std::string& module) {
    for (const std::string& name : names)
      if (ends_in(module, name)) return true;
    return false;
  }
  static bool matches(const std::string& pattern, const std::string& module) {
    bool found = false;
    detail::tok::Regex(pattern, "LoRA module pattern").for_each_match(module, [&](std::size_t begin, std::size_t end) {
      found = found || (begin == 0 && end == module.size());
    });
    return found;
  }
  template <class Value>
  static Value pattern_value(const ModulePatterns<Value>& patterns, const std::string& module, Value otherwise) {
    for (const auto& [key, value] : patterns)
      if (matches("^(?:.*\\.)?(?:" + key + ")$", module)) return value;
    return otherwise;
  }
};

namespace detail {

/// Keys of adapter_config.json that change nothing when an adapter is used.
inline constexpr std::array adapter_keys_without_effect{"peft_version",  "inference_mode", "auto_mapping",
                                                        "revision",      "megatron_core",  "qalora_group_size",
                                                        "runtime_config"};

/// `object[key]` as patterns, in the order of the file.
template <class Value>
ModulePatterns<Value> read_patterns(const Json& object, const std::string& key, const std::string& where) {
  const Json patterns = object.contains(key) && !object[key].is_null() ? object[key] : Json::object();
  check(patterns.is_object(), where, ": \"", key, "\" must be an object, got ", patterns.dump());
  ModulePatterns<Value> out;
  for (const auto& [pattern, value] : patterns.items()) {
    const auto taken = json_as<Value>(value);
    check(taken.has_value(), where, ": ", key, ": \"", pattern, "\" has the unexpected value ", value.dump());
    out.emplace_back(pattern, *taken);
  }
  return out;
}

template <class Value>
Json patterns_json(const ModulePatterns<Value>& patterns) {
  Json out = Json::object();
  for (const auto& [pattern, value] : patterns) out[pattern] = value;
  return out;
}

inline char lower_case(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

inline bool asks_for_nothing(const Json& value) {
  return value.is_null() || value == false || ((value.is_array() || value.is_object()) && value.empty());
}

}  // namespace detail

/// Reads adapter_config.json's content; `where` (its path) opens messages. Throws Error that names what is malformed or
/// not supported.
inline LoraConfig parse_lora_config(const Json& json, const std::string& where) {
  check(json.is_object(), where, ": expected an object");
  const std::string type = json_value<std::string>(json, "peft_type", "", where);
  check(type == "LORA", where, ": peft_type \"", type, "\" is not supported; only LORA is");
  LoraConfig out;
  out.r = json_value<std::int64_t>(json, "r", 8, where);
  out.lora_alpha = json_value<double>(json, "lora_alpha", 8, where);
  out.lora_dropout = json_value<double>(json, "lora_dropout", 0, where);
  out.use_rslora = json_value<bool>(json, "use_rslora", false, where);
  out.use_dora = json_value<bool>(json, "use_dora", false, where);
  out.task_type = json_value<std::string>(json, "task_type", "CAUSAL_LM", where);
  out.base_model_name_or_path = json_value<std::string>(json, "base_model_name_or_path", "", where);
  out.modules_to_save = json_value(json, "modules_to_save", std::vector<std::string>{}, where);
  out.exclude_modules = json_value(json, "exclude_modules", std::vector<std::string>{}, where);
  out.rank_pattern = detail::read_patterns<std::int64_t>(json, "rank_pattern", where);
  out.alpha_pattern = detail::read_patterns<double>(json, "alpha_pattern", where);
  if (json.contains("target_modules") && json["target_modules"].is_string()) {
    out.target_pattern = json["target_modules"].get<std::string>();
    if (std::ranges::equal(out.target_pattern, std::string_view("all-linear"), {}, detail::lower_case))  // as in PEFT
      out.target_pattern = "all-linear";
  } else {
    out.target_modules = json_value(json, "target_modules", std::vector<std::string>{}, where);
  }
  check(out.r > 0, where, ": \"r\" is ", out.r, "; expected 1 or more");
  for (const auto& [pattern, rank] : out.rank_pattern)
    check(rank > 0, where, ": rank_pattern: \"", pattern, "\" is ", rank, "; expected 1 or more");
  check(out.lora_dropout >= 0 && out.lora_dropout < 1, where, ": \"lora_dropout\" is ", out.lora_dropout,
        "; expected a number from 0 to below 1");
  check(!out.target_modules.empty() || !out.target_pattern.empty(), where, ": \"target_modules\" is missing");

  const std::string bias = json_value<std::string>(json, "bias", "none", where);
  check(bias == "none", where, ": \"bias\": \"", bias, "\" is not supported; only \"none\" is");
  const Json init = json.contains("init_lora_weights") ? json["init_lora_weights"] : Json(true);
  check(init.is_boolean() || init == "gaussian" || init == "orthogonal" || init == "eva", where,
        ": \"init_lora_weights\": ", init.dump(), " changes the base weights and is not supported");
  constexpr std::array known{
      "peft_type",     "r",         "lora_alpha",      "lora_dropout",      "use_rslora",
      "use_dora",      "task_type", "modules_to_save", "exclude_modules",   "rank_pattern",
      "alpha_pattern", "bias",      "target_modules",  "init_lora_weights", "base_model_name_or_path"};
  for (const auto& [key, value] : json.items()) {
    const auto is = [&present = key](const char* name) { return present == name; };
    if (std::ranges::any_of(known, is) || detail::asks_for_nothing(value)) continue;
    if (std::ranges::any_of(detail::adapter_keys_without_effect, is)) continue;
    fail(where, ": \"", key, "\": ", value.dump(), " is not supported");
  }
  return out;
}

/// adapter_config.json, with the keys that PEFT writes.
inline Json to_json(const LoraConfig& config) {
  Json targets = config.target_pattern.empty() ? Json(config.target_modules) : Json(config.target_pattern);
  const auto list = [](const std::vector<std::string>& names) { return names.empty() ? Json() : Json(names); };
  Json base = config.base_model_name_or_path.empty() ? Json() : Json(config.base_model_name_or_path);
  return {{"alpha_pattern", detail::patterns_json(config.alpha_pattern)},
          {"auto_mapping", nullptr},
          {"base_model_name_or_path", base},
          {"bias", "none"},
          {"exclude_modules", list(config.exclude_modules)},
          {"fan_in_fan_out", false},
          {"inference_mode", true},
          {"init_lora_weights", true},
          {"layer_replication", nullptr},
          {"layers_pattern", nullptr},
          {"layers_to_transform", nullptr},
          {"lora_alpha", config.lora_alpha},
          {"lora_bias", false},
          {"lora_dropout", config.lora_dropout},
          {"modules_to_save", list(config.modules_to_save)},
          {"peft_type", "LORA"},
          {"r", config.r},
          {"rank_pattern", detail::patterns_json(config.rank_pattern)},
          {"revision", nullptr},
          {"target_modules", targets},
          {"task_type", config.task_type},
          {"use_dora", config.use_dora},
          {"use_rslora", config.use_rslora}};
}

}  // namespace kto
