// SPDX-License-Identifier: Apache-2.0
// Multimodal models around a decoder: those that treat rows of text alone as the decoder does. Their config.json
// describes the decoder in text_config. Free of LibTorch.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>

#include "kto/io/json.hpp"
#include "kto/model/spec.hpp"

namespace kto {

/// A kind of multimodal model in transformers 5.24.
struct Wrapper {
  std::string_view model_type;
  std::string_view text_type;  ///< model_type of a text_config that names none
  bool ties = false;           ///< whether the head is the embedding by default
  bool applies_head = false;   ///< whether logits are scaled and capped as text_config says
  std::string_view path = "model.language_model.";
  const char* lora_targets =
      "[]";  ///< JSON: the decoder's modules that PEFT 0.21 adapts by default; none: as in Family
};

inline constexpr Wrapper wrappers[] = {{.model_type = "aya_vision", .text_type = "cohere2", .ties = true},
                                       {.model_type = "cohere2_vision", .text_type = "cohere2", .ties = true},
                                       {.model_type = "gemma3", .text_type = "gemma3_text", .ties = true},
                                       {.model_type = "gemma4",
                                        .text_type = "gemma4_text",
                                        .ties = true,
                                        .applies_head = true,
                                        .lora_targets = R"(["q_proj", "v_proj"])"},
                                       {.model_type = "idefics3", .text_type = "llama", .path = "model.text_model."},
                                       {.model_type = "internvl", .text_type = "qwen2", .ties = true},
                                       {.model_type = "llava", .text_type = "llama"},
                                       {.model_type = "llava_next", .text_type = "llama"},
                                       {.model_type = "llava_next_video", .text_type = "llama"},
                                       {.model_type = "llava_onevision", .text_type = "qwen2"},
                                       {.model_type = "mistral3", .text_type = "mistral", .ties = true},
                                       {.model_type = "qwen3_5", .text_type = "qwen3_5_text"},
                                       {.model_type = "smolvlm", .text_type = "llama", .path = "model.text_model."},
                                       {.model_type = "vipllava", .text_type = "llama"}};

inline std::optional<Wrapper> wrapper_named(std::string_view model_type) {
  const auto* found = std::ranges::find(wrappers, model_type, &Wrapper::model_type);
  return found == std::ranges::end(wrappers) ? std::nullopt : std::optional(*found);
}
/// The kind that a config.json names; none if it is a decoder's, or unknown.
inline std::optional<Wrapper> find_wrapper(const Json& config) {
  const auto type = config.find("model_type");
  return type != config.end() && type->is_string() ? wrapper_named(type->get<std::string>()) : std::nullopt;
}

/// The part of a config.json that describes the decoder and names its special tokens: text_config, or all of it.
template <class AnyJson>
AnyJson& decoder_config(AnyJson& config) {
  const auto text = config.find("text_config");
  return find_wrapper(config) && text != config.end() && text->is_object() ? *text : config;
}

/// Turns a decoder's description into that of the decoder inside a multimodal model.
inline void put_in_wrapper(const Wrapper& wrapper, ModelSpec& spec) {
  ModuleNames& names = spec.names;
  names.wrapper = wrapper.model_type;
  names.wrapper_path = wrapper.path;
  for (std::string* name : {&names.embedding, &names.layers, &names.last_norm, &names.positions, &names.embedding_norm})
    if (name->starts_with(names.prefix)) name->replace(0, names.prefix.size(), names.wrapper_path);
  names.head = "lm_head";
  names.stored_head.clear();
  if (!wrapper.applies_head) spec.head = {};
}

}  // namespace kto
