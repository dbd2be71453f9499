// SPDX-License-Identifier: Apache-2.0
// Every field of adapter_config.json that PEFT 0.21 writes for LoRA: read, without effect here, or refused unless
// unset, with the reason. Free of LibTorch.
#pragma once

#include <algorithm>
#include <array>
#include <string_view>

namespace kto::detail {

enum class LoraUse { read, without_effect, refused };

struct LoraField {
  std::string_view name;
  LoraUse use;
  const char* unset;     ///< JSON written for an unset field; null: omitted, since older PEFTs have
                         ///< no such field
  std::string_view why;  ///< it has no effect, or is refused
};

inline constexpr std::array lora_fields{
    LoraField{"alora_invocation_tokens", LoraUse::refused, nullptr, "activated LoRA starts at a token"},
    LoraField{"alpha_pattern", LoraUse::read, "{}", ""},
    LoraField{"arrow_config", LoraUse::refused, nullptr, "Arrow routes tokens between adapters"},
    LoraField{"auto_mapping", LoraUse::without_effect, "null", "it names Python classes"},
    LoraField{"base_model_name_or_path", LoraUse::read, "null", ""},
    LoraField{"bias", LoraUse::read, "\"none\"", ""},
    LoraField{"corda_config", LoraUse::without_effect, nullptr, "it belongs to init_lora_weights"},
    LoraField{"ensure_weight_tying", LoraUse::read, nullptr, ""},
    LoraField{"eva_config", LoraUse::without_effect, nullptr, "it belongs to init_lora_weights"},
    LoraField{"exclude_modules", LoraUse::read, "null", ""},
    LoraField{"fan_in_fan_out", LoraUse::read, "false", ""},
    LoraField{"inference_mode", LoraUse::without_effect, "true", "it is for PEFT's loader"},
    LoraField{"init_lora_weights", LoraUse::read, "true", ""},
    LoraField{"kasa_config", LoraUse::refused, nullptr, "KaSA truncates the base's weights"},
    LoraField{"layer_replication", LoraUse::refused, "null", "the base has each of its layers once"},
    LoraField{"layers_pattern", LoraUse::read, "null", ""},
    LoraField{"layers_to_transform", LoraUse::read, "null", ""},
    LoraField{"loftq_config", LoraUse::without_effect, nullptr, "it belongs to init_lora_weights"},
    LoraField{"lora_alpha", LoraUse::read, "8", ""},
    LoraField{"lora_bias", LoraUse::read, "false", ""},
    LoraField{"lora_dropout", LoraUse::read, "0.0", ""},
    LoraField{"lora_ga_config", LoraUse::without_effect, nullptr, "it belongs to init_lora_weights"},
    LoraField{"megatron_config", LoraUse::refused, nullptr, "the layers are not Megatron's"},
    LoraField{"megatron_core", LoraUse::without_effect, nullptr, "it belongs to megatron_config"},
    LoraField{"modules_to_save", LoraUse::read, "null", ""},
    LoraField{"monteclora_config", LoraUse::refused, nullptr, "MonteCLoRA draws weights at random"},
    LoraField{"peft_type", LoraUse::read, "\"LORA\"", ""},
    LoraField{"peft_version", LoraUse::without_effect, nullptr, "it says what wrote the file"},
    LoraField{"qalora_group_size", LoraUse::without_effect, nullptr, "it belongs to use_qalora"},
    LoraField{"r", LoraUse::read, "8", ""},
    LoraField{"rank_pattern", LoraUse::read, "{}", ""},
    LoraField{"revision", LoraUse::read, "null", ""},
    LoraField{"runtime_config", LoraUse::without_effect, nullptr, "it is for PEFT's loader, which does not save it"},
    LoraField{"target_modules", LoraUse::read, "null", ""},
    LoraField{"target_parameters", LoraUse::refused, nullptr, "adapters are on linear layers and the embedding"},
    LoraField{"task_type", LoraUse::read, "null", ""},
    LoraField{"trainable_token_indices", LoraUse::read, nullptr, ""},
    LoraField{"use_bdlora", LoraUse::refused, nullptr, "BD-LoRA has block-diagonal matrices"},
    LoraField{"use_dora", LoraUse::read, "false", ""},
    LoraField{"use_qalora", LoraUse::without_effect, nullptr, "it is for GPTQ layers, as in PEFT"},
    LoraField{"use_rslora", LoraUse::read, "false", ""},
    LoraField{"velora_config", LoraUse::refused, nullptr, "VeLoRA compresses activations for the backward pass"},
};

inline const LoraField* find_lora_field(std::string_view name) {
  const auto* found = std::ranges::find(lora_fields, name, &LoraField::name);
  return found == lora_fields.end() ? nullptr : found;
}

/// Values of init_lora_weights that PEFT itself cannot read back, and why.
inline constexpr std::array<std::array<std::string_view, 2>, 2> refused_inits{{
    {"corda", "it needs the covariances of its data, which are not in the adapter"},
    {"loftq", "it quantizes the base's weights"},
}};

}  // namespace kto::detail
