// SPDX-License-Identifier: Apache-2.0
// From config.json to the description of a decoder: the list of families, and what all of them refuse. Absent keys have
// the defaults of transformers 5.24. Any unsupported key that would change numbers is refused by name. Free of
// LibTorch.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/model/families/apertus.hpp"
#include "kto/model/families/arcee.hpp"
#include "kto/model/families/bart.hpp"
#include "kto/model/families/bloom.hpp"
#include "kto/model/families/cohere.hpp"
#include "kto/model/families/deepseek.hpp"
#include "kto/model/families/ernie4_5.hpp"
#include "kto/model/families/exaone4.hpp"
#include "kto/model/families/falcon.hpp"
#include "kto/model/families/gemma.hpp"
#include "kto/model/families/gemma2.hpp"
#include "kto/model/families/gemma4.hpp"
#include "kto/model/families/glm.hpp"
#include "kto/model/families/glm4_moe.hpp"
#include "kto/model/families/gpt2.hpp"
#include "kto/model/families/gpt_neox.hpp"
#include "kto/model/families/gpt_oss.hpp"
#include "kto/model/families/gptj.hpp"
#include "kto/model/families/granite.hpp"
#include "kto/model/families/granitemoe.hpp"
#include "kto/model/families/helium.hpp"
#include "kto/model/families/hunyuan.hpp"
#include "kto/model/families/lfm2.hpp"
#include "kto/model/families/llama.hpp"
#include "kto/model/families/ministral.hpp"
#include "kto/model/families/mistral.hpp"
#include "kto/model/families/mixtral.hpp"
#include "kto/model/families/nanochat.hpp"
#include "kto/model/families/nemotron.hpp"
#include "kto/model/families/olmo.hpp"
#include "kto/model/families/olmo2.hpp"
#include "kto/model/families/olmoe.hpp"
#include "kto/model/families/opt.hpp"
#include "kto/model/families/phi.hpp"
#include "kto/model/families/phi3.hpp"
#include "kto/model/families/phimoe.hpp"
#include "kto/model/families/qwen2.hpp"
#include "kto/model/families/qwen2_moe.hpp"
#include "kto/model/families/qwen3.hpp"
#include "kto/model/families/qwen3_moe.hpp"
#include "kto/model/families/qwen3_next.hpp"
#include "kto/model/families/seed_oss.hpp"
#include "kto/model/families/smollm3.hpp"
#include "kto/model/families/stablelm.hpp"
#include "kto/model/families/starcoder2.hpp"
#include "kto/model/families/t5.hpp"
#include "kto/model/multimodal.hpp"

namespace kto {

namespace detail {

inline constexpr const Family* families[] = {&apertus,     &arcee,
                                             &bart,        &bloom,
                                             &cohere,      &cohere2,
                                             &deepseek_v3, &ernie4_5,
                                             &exaone4,     &falcon,
                                             &gemma,       &gemma2,
                                             &gemma3,      &gemma4,
                                             &glm,         &glm4,
                                             &glm4_moe,    &gpt2,
                                             &gpt_bigcode, &gpt_neox,
                                             &gpt_oss,     &gptj,
                                             &granite,     &granitemoe,
                                             &helium,      &hunyuan_v1_dense,
                                             &lfm2,        &llama,
                                             &ministral,   &ministral3,
                                             &mistral,     &mixtral,
                                             &mt5,         &nanochat,
                                             &nemotron,    &olmo,
                                             &olmo2,       &olmo3,
                                             &olmoe,       &opt,
                                             &phi,         &phi3,
                                             &phimoe,      &qwen2,
                                             &qwen2_moe,   &qwen3,
                                             &qwen3_5,     &qwen3_moe,
                                             &qwen3_next,  &seed_oss,
                                             &smollm3,     &stablelm,
                                             &starcoder2,  &t5,
                                             &umt5};

/// Defaults that all families share.
inline constexpr const char* common_defaults =
    R"({"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "hidden_act": "silu",
        "rms_norm_eps": 1e-6, "max_window_layers": 28})";

/// Refuses unsupported keys that would change numbers in every family.
inline void refuse_unsupported(const ConfigReader& config) {
  check(!config.has("quantization_config"), config.where,
        ": \"quantization_config\": quantized weights are not supported; save the model dequantized first");
  check(!config.has("is_causal") || config.flag("is_causal", true), config.where,
        ": \"is_causal\": false is not supported");
}

/// Refuses settings by layer for families without them.
inline void refuse_per_layer_config(const ConfigReader& config, const Family& family) {
  check(!config.has("per_layer_config") || Json::parse(family.defaults).contains("per_layer_config"), config.where,
        ": \"per_layer_config\" is not supported for ", family.model_type);
}

/// Refuses rotary positions on a part of each head for families without a default for that: transformers cannot run it.
inline void refuse_partial_rotary(const ConfigReader& config, const Family& family) {
  if (Json::parse(family.defaults).contains("partial_rotary_factor")) return;
  const RopeValues rope = read_rope_values(config);
  for (const ConfigReader& reader : {config, rope.reader()})
    check(reader.number("partial_rotary_factor", 1) == 1, reader.where,
          ": partial_rotary_factor other than 1 is not supported for ", family.model_type);
}

inline const Family& family_of(const ConfigReader& config, const std::string& model_type) {
  std::vector<std::pair<std::string_view, const Family*>> named;
  for (const Family* family : families) named.emplace_back(family->model_type, family);
  return *config.choice("model_type", model_type, named);
}

/// Throws Error, naming decoders and multimodal models, for a model_type that is neither.
inline void check_model_type(const ConfigReader& config) {
  std::vector<std::pair<std::string_view, bool>> named;
  for (const Family* family : families) named.emplace_back(family->model_type, true);
  for (const Wrapper& wrapper : wrappers) named.emplace_back(wrapper.model_type, true);
  config.choice("model_type", config.text("model_type"), named);
}

}  // namespace detail

/// The modules that PEFT adapts in such a model when none are named. Throws Error where it wants them named.
inline std::vector<std::string> default_lora_targets(const ModelSpec& spec) {
  const Json none;
  const auto wrapper = wrapper_named(spec.names.wrapper);
  const Json targets =
      Json::parse(wrapper ? wrapper->lora_targets : detail::family_of({none, "LoRA"}, spec.model_type).lora_targets);
  check(!targets.empty(), "target_modules: PEFT has no default for ", wrapper ? wrapper->model_type : spec.model_type,
        "; name modules, or all-linear for every linear layer");
  return targets.get<std::vector<std::string>>();
}

/// Names that PEFT does not take for linear layers of such a model.
inline std::vector<std::string> lora_names_of_experts(const ModelSpec& spec) {
  const Json none;
  return Json::parse(detail::family_of({none, "LoRA"}, spec.model_type).lora_experts).get<std::vector<std::string>>();
}

namespace detail {

/// The description of a decoder from its own config.json, or from text_config.
inline ModelSpec parse_decoder_config(Json json, const std::string& where) {
  const ConfigReader config{json, where};
  const Family& family = family_of(config, config.text("model_type"));
  const Json other_names = Json::parse(family.other_names);
  for (const auto& [name, common_name] : other_names.items()) {
    const auto given = json.find(name);
    if (given == json.end()) continue;
    const std::string common = common_name.get<std::string>();
    const Json value = *given;
    const bool may_differ = common != "num_experts" && common != "head_dim";
    check(may_differ || !json.contains(common) || json[common] == value, where, ": ", name, " is ", value, ", and ",
          common, " is ", json.value(common, Json()));
    json[common] = value;
  }
  for (const char* text : {family.defaults, common_defaults}) {
    const Json defaults = Json::parse(text);
    for (const auto& [key, value] : defaults.items())
      if (!json.contains(key)) json[key] = value;
  }
  refuse_unsupported(config);
  refuse_per_layer_config(config, family);
  refuse_partial_rotary(config, family);
  return family.read(config);
}

}  // namespace detail

/// Reads the content of a config.json; of a multimodal model, the decoder in it. Throws Error, starting with `where`
/// (its path), if the family is unknown, or the config is unsupported or contradicts itself.
inline ModelSpec parse_model_config(Json json, const std::string& where) {
  check(json.is_object(), where, ": expected an object");
  const auto wrapper = find_wrapper(json);
  const detail::ConfigReader config{json, where};
  if (!wrapper) {
    detail::check_model_type(config);
    return detail::parse_decoder_config(std::move(json), where);
  }
  detail::refuse_unsupported(config);
  check(config.has("text_config") && json.at("text_config").is_object(), where,
        ": \"text_config\" is missing; expected the config of the ", wrapper->model_type, " model's decoder");
  Json text = json.at("text_config");
  if (!text.contains("model_type")) text["model_type"] = wrapper->text_type;
  text["tie_word_embeddings"] = config.flag("tie_word_embeddings", wrapper->ties);
  ModelSpec out = detail::parse_decoder_config(std::move(text), where + ": text_config");
  put_in_wrapper(*wrapper, out);
  return out;
}

/// Reads a model folder's config.json.
inline ModelSpec read_model_config(const fs::path& folder) {
  const fs::path path = folder / "config.json";
  check(fs::is_directory(folder), folder.string(),
        ": is not a folder; expected a model's folder, or its name on the hub (owner/name)");
  check(fs::exists(path) || !fs::exists(folder / "adapter_config.json"), folder.string(),
        ": is an adapter, not a whole model: it has adapter_config.json and no config.json");
  return parse_model_config(read_json(path), path.string());
}

}  // namespace kto
