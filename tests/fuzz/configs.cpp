// SPDX-License-Identifier: Apache-2.0
// config.json, adapter_config.json and the YAML file of --config.
#include "fuzz.hpp"
#include "kto/cli/yaml_file.hpp"
#include "kto/model/config.hpp"
#include "kto/model/lora_config_json.hpp"

void fuzz::model_config(std::string_view bytes) {
  kto::parse_model_config(kto::parse_json(bytes, "config.json"), "config.json");
}

void fuzz::adapter_config(std::string_view bytes) {
  const auto config = kto::parse_lora_config(kto::parse_json(bytes, "adapter_config.json"), "adapter_config.json");
  for (const char* module : {"model.layers.0.self_attn.q_proj", "model.layers.11.mlp.up_proj", "lm_head"})
    if (config.targets(module)) config.scaling_of(module);
  kto::to_json(config).dump();
}

// Regular expressions that an adapter_config.json may hold: of ranks, of modules and of layers, one a line.
void fuzz::lora_patterns(std::string_view bytes) {
  kto::Json config = {{"peft_type", "LORA"}, {"r", 4}};
  const char* keys[] = {"target_modules", "exclude_modules", "layers_pattern", "rank_pattern", "modules_to_save"};
  for (const char* key : keys) {
    const std::string line(bytes.substr(0, bytes.find('\n')));
    bytes.remove_prefix(std::min(line.size() + 1, bytes.size()));
    if (line.empty()) continue;
    const std::string_view name = key;
    config[key] = name == "rank_pattern"      ? kto::Json{{line, 8}}
                  : name == "modules_to_save" ? kto::Json::array({line})
                                              : kto::Json(line);
  }
  if (config.contains("layers_pattern")) {
    config["target_modules"] = {"q_proj", "up_proj"};
    config["layers_to_transform"] = {0, 11};
  }
  const std::string text = config.dump(-1, ' ', false, kto::Json::error_handler_t::replace);
  const auto read = kto::parse_lora_config(kto::parse_json(text, "adapter_config.json"), "adapter_config.json");
  for (const char* module : {"model.layers.0.self_attn.q_proj", "model.layers.11.mlp.up_proj", "lm_head"})
    if (read.targets(module)) read.scaling_of(module);
}

void fuzz::yaml_config(std::string_view bytes) { kto::cli::read_yaml(file("run.yaml", bytes)); }
