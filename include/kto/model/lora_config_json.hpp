// SPDX-License-Identifier: Apache-2.0
// Converts LoraConfig from and to PEFT's adapter_config.json. Refuses features of PEFT that are missing here, by name.
// Free of LibTorch.
#pragma once

#include "kto/io/json.hpp"
#include "kto/model/detail/lora_fields.hpp"
#include "kto/model/lora_config.hpp"

namespace kto {

namespace detail {

inline constexpr std::array<std::pair<std::string_view, LoraBias>, 3> lora_biases{
    {{"none", LoraBias::none}, {"all", LoraBias::all}, {"lora_only", LoraBias::lora_only}}};

inline bool asks_for_nothing(const Json& value) {
  return value.is_null() || value == false || ((value.is_array() || value.is_object()) && value.empty());
}

/// A field of adapter_config.json by name; null if absent.
struct LoraReader {
  const Json& json;
  const std::string& where;

  const Json& operator[](const char* key) const {
    static const Json null;
    const auto found = json.find(key);
    return found == json.end() ? null : *found;
  }
  template <class T>
  T value(const char* key, T otherwise) const {
    return json_value(json, key, std::move(otherwise), where);
  }
  /// An object as pairs, in the order of the file.
  template <class Value>
  ModulePatterns<Value> pairs(const char* key) const {
    const Json& object = (*this)[key];
    check(object.is_null() || object.is_object(), where, ": \"", key, "\" must be an object, got ", object.dump());
    ModulePatterns<Value> out;
    for (const auto& [name, item] : object.items()) {
      const auto taken = json_as<Value>(item);
      check(taken.has_value(), where, ": ", key, ": \"", name, "\" has the unexpected value ", item.dump());
      out.emplace_back(name, *taken);
    }
    return out;
  }
  /// A list of names, or one regular expression.
  void names_or_pattern(const char* key, std::vector<std::string>& names, std::string& pattern) const {
    if ((*this)[key].is_string())
      pattern = (*this)[key].template get<std::string>();
    else
      names = value(key, names);
  }
  /// A list, or a single item instead of one.
  template <class T>
  std::vector<T> list(const char* key) const {
    if (const auto one = json_as<T>((*this)[key])) return {*one};
    return value(key, std::vector<T>{});
  }
};

inline std::string read_init(const LoraReader& file) {
  const Json& init = file["init_lora_weights"];
  if (init.is_null()) return "true";
  if (init.is_boolean()) return init.dump();
  const std::string name = file.value<std::string>("init_lora_weights", "");
  for (const auto& [refused, why] : refused_inits)
    check(name != refused, file.where, ": \"init_lora_weights\": \"", name, "\" is not supported: ", why,
          "; save the adapter with PEFT's path_initial_model_for_weight_conversion");
  const bool known = name == "gaussian" || name == "orthogonal" || name == "mica" || name == "olora" ||
                     name == "pissa" || name.starts_with("pissa_niter_") || name == "eva" || name == "lora_ga";
  check(known, file.where, ": \"init_lora_weights\": \"", name, "\" is unknown");
  return name;
}

inline void check_lora_fields(const Json& json, const std::string& where) {
  for (const auto& [key, value] : json.items()) {
    const LoraField* field = find_lora_field(key);
    if ((field != nullptr && field->use != LoraUse::refused) || asks_for_nothing(value)) continue;
    fail(where, ": \"", key, "\": ", value.dump(),
         " is not supported: ", field != nullptr ? field->why : std::string_view("PEFT 0.21 has no such field"));
  }
}

inline void check_lora_config(const LoraConfig& config, const std::string& where) {
  check(config.r > 0, where, ": \"r\" is ", config.r, "; expected 1 or more");
  for (const auto& [pattern, rank] : config.rank_pattern)
    check(rank > 0, where, ": rank_pattern: \"", pattern, "\" is ", rank, "; expected 1 or more");
  check(config.lora_dropout >= 0 && config.lora_dropout < 1, where, ": \"lora_dropout\" is ", config.lora_dropout,
        "; expected a number from 0 to below 1");
  const bool by_layer = !config.layers_to_transform.empty() || !config.layers_pattern.empty();
  check(!by_layer || config.target_pattern.empty(), where,
        ": layers_to_transform and layers_pattern need target_modules to be a list of names");
  check(config.layers_pattern.empty() || !config.layers_to_transform.empty(), where,
        ": layers_pattern needs layers_to_transform");
  check(!config.lora_bias || !config.use_dora, where, ": lora_bias and use_dora cannot be combined");
  check(!config.lora_bias || config.init_lora_weights == "true" || config.init_lora_weights == "false", where,
        ": lora_bias needs init_lora_weights true or false, not ", config.init_lora_weights);
  check(config.init_lora_weights != "mica" || !config.use_dora, where,
        ": init_lora_weights mica and use_dora cannot be combined");
}

/// A list for the embedding, or lists by the end of a module's path.
inline ModulePatterns<std::vector<std::int64_t>> read_tokens(const LoraReader& file) {
  using Indices = std::vector<std::int64_t>;
  const char* key = "trainable_token_indices";
  ModulePatterns<Indices> out;
  if (file[key].is_array())
    out.emplace_back("embed_tokens", file.value(key, Indices{}));
  else
    out = file.pairs<Indices>(key);
  std::erase_if(out, [](const auto& item) { return item.second.empty(); });
  return out;
}

}  // namespace detail

/// Reads the content of adapter_config.json. Throws Error, starting with `where` (its path), naming what is malformed
/// or unsupported.
inline LoraConfig parse_lora_config(const Json& json, const std::string& where) {
  check(json.is_object(), where, ": expected an object");
  const detail::LoraReader file{json, where};
  const std::string type = file.value<std::string>("peft_type", "");
  check(type == "LORA", where, ": peft_type \"", type, "\" is not supported; only LORA is");
  detail::check_lora_fields(json, where);

  LoraConfig out;
  out.r = file.value<std::int64_t>("r", 8);
  out.lora_alpha = file.value<double>("lora_alpha", 8);
  out.lora_dropout = file.value<double>("lora_dropout", 0);
  file.names_or_pattern("target_modules", out.target_modules, out.target_pattern);
  const auto lower_case = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
  if (std::ranges::equal(out.target_pattern, std::string_view("all-linear"), {}, lower_case))  // as in PEFT
    out.target_pattern = "all-linear";
  check(file["target_modules"] != Json::array() && file["target_modules"] != "", where,
        ": \"target_modules\" is empty");
  file.names_or_pattern("exclude_modules", out.exclude_modules, out.exclude_pattern);
  out.modules_to_save = file.value("modules_to_save", std::vector<std::string>{});
  const std::string bias = file.value<std::string>("bias", "none");
  const auto* known = std::ranges::find(detail::lora_biases, bias, &std::pair<std::string_view, LoraBias>::first);
  check(known != detail::lora_biases.end(), where, ": \"bias\" is \"", bias, "\"; expected none, all or lora_only");
  out.bias = known->second;
  out.lora_bias = file.value("lora_bias", false);
  out.use_rslora = file.value("use_rslora", false);
  out.use_dora = file.value("use_dora", false);
  out.fan_in_fan_out = file.value("fan_in_fan_out", false);
  out.layers_to_transform = file.list<std::int64_t>("layers_to_transform");
  out.layers_pattern = file.list<std::string>("layers_pattern");
  std::erase(out.layers_pattern, "");
  out.rank_pattern = file.pairs<std::int64_t>("rank_pattern");
  out.alpha_pattern = file.pairs<double>("alpha_pattern");
  out.trainable_token_indices = detail::read_tokens(file);
  out.ensure_weight_tying = file.value("ensure_weight_tying", false);
  out.init_lora_weights = detail::read_init(file);
  out.task_type = file.value<std::string>("task_type", "CAUSAL_LM");
  out.base_model_name_or_path = file.value<std::string>("base_model_name_or_path", "");
  out.revision = file.value<std::string>("revision", "main");
  detail::check_lora_config(out, where);
  return out;
}

/// The content of adapter_config.json, with the fields that PEFT writes.
inline Json to_json(const LoraConfig& config) {
  const auto object = [](const auto& pairs) {
    Json out = Json::object();
    for (const auto& [key, value] : pairs) out[key] = value;
    return out;
  };
  const auto or_null = [](const auto& value) { return value.empty() ? Json() : Json(value); };
  const auto names = [&](const std::vector<std::string>& list, const std::string& pattern) {
    return pattern.empty() ? or_null(list) : Json(pattern);
  };
  const bool plain_init = config.init_lora_weights == "true" || config.init_lora_weights == "false";
  const Json init = plain_init ? Json(config.init_lora_weights == "true") : Json(config.init_lora_weights);
  const auto& tokens = config.trainable_token_indices;
  const bool of_embedding = tokens.size() == 1 && tokens.front().first == "embed_tokens";
  const Json read = {
      {"alpha_pattern", object(config.alpha_pattern)},
      {"base_model_name_or_path", or_null(config.base_model_name_or_path)},
      {"bias",
       std::ranges::find(detail::lora_biases, config.bias, &std::pair<std::string_view, LoraBias>::second)->first},
      {"ensure_weight_tying", config.ensure_weight_tying},
      {"exclude_modules", names(config.exclude_modules, config.exclude_pattern)},
      {"fan_in_fan_out", config.fan_in_fan_out},
      {"init_lora_weights", init},
      {"layers_pattern", or_null(config.layers_pattern)},
      {"layers_to_transform", or_null(config.layers_to_transform)},
      {"lora_alpha", config.lora_alpha},
      {"lora_bias", config.lora_bias},
      {"lora_dropout", config.lora_dropout},
      {"modules_to_save", or_null(config.modules_to_save)},
      {"peft_type", "LORA"},
      {"r", config.r},
      {"rank_pattern", object(config.rank_pattern)},
      {"revision", config.revision == "main" ? Json() : Json(config.revision)},
      {"target_modules", names(config.target_modules, config.target_pattern)},
      {"task_type", config.task_type},
      {"trainable_token_indices", tokens.empty() ? Json()
                                  : of_embedding ? Json(tokens.front().second)
                                                 : object(tokens)},
      {"use_dora", config.use_dora},
      {"use_rslora", config.use_rslora}};
  Json out = Json::object();
  for (const detail::LoraField& field : detail::lora_fields) {
    const std::string name(field.name);
    const bool is_read = field.use == detail::LoraUse::read;
    if (is_read && (field.unset != nullptr || !detail::asks_for_nothing(read.at(name))))
      out[name] = read.at(name);
    else if (!is_read && field.unset != nullptr)
      out[name] = Json::parse(field.unset);
  }
  return out;
}

}  // namespace kto
