// SPDX-License-Identifier: Apache-2.0
// What encoding rows requires of a tokenizer and of a chat template. Both are shared by threads.
#pragma once

#include <concepts>
#include <cstdint>
#include <ctime>
#include <string>
#include <string_view>
#include <vector>

#include "kto/io/json.hpp"

namespace kto {

/// Converts text to token ids, with or without the tokenizer's special tokens around it, and back.
template <class Tokenizer>
concept EncodesText =
    requires(const Tokenizer& tokenizer, std::string_view text, const std::vector<std::int32_t>& ids) {
      { tokenizer.encode(text, true) } -> std::same_as<std::vector<std::int32_t>>;
      { tokenizer.decode(ids) } -> std::convertible_to<std::string>;
    };

/// Renders template variables (messages, tools, add_generation_prompt, ...) to text. `now` is the time to show.
template <class Template>
concept RendersChat = requires(const Template& chat_template, const Json& variables, std::time_t now) {
  { chat_template.render(variables, now) } -> std::convertible_to<std::string>;
};

}  // namespace kto
