// SPDX-License-Identifier: Apache-2.0
// config.json, adapter_config.json and the YAML file of --config.
#include "examples/cli/yaml_file.hpp"
#include "fuzz.hpp"
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

void fuzz::yaml_config(std::string_view bytes) { kto::read_yaml(file("run.yaml", bytes)); }
