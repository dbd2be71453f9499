// SPDX-License-Identifier: Apache-2.0
// The files of a model folder that its tokenizer and chat template are: what is copied beside saved weights.
#pragma once

#include <array>

namespace kto {

inline constexpr std::array companion_files{"tokenizer.json",
                                            "tokenizer_config.json",
                                            "special_tokens_map.json",
                                            "added_tokens.json",
                                            "vocab.json",
                                            "merges.txt",
                                            "vocab.txt",
                                            "tokenizer.model",
                                            "chat_template.jinja",
                                            "chat_template.json"};
inline constexpr const char* companion_templates = "additional_chat_templates";

}  // namespace kto
