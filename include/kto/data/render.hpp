// SPDX-License-Identifier: Apache-2.0
// Rows to text: the chat template for conversations, the end-of-sequence token for plain text. As transformers'
// apply_chat_template and TRL's KTOTrainer do it.
#pragma once

#include <ctime>
#include <string>
#include <string_view>
#include <utility>

#include "kto/core/utf8.hpp"
#include "kto/data/concept.hpp"
#include "kto/data/row.hpp"

namespace kto {

/// The texts of a row that are tokenized.
struct RowText {
  std::string prompt;              ///< with what the template writes before a reply
  std::string whole;               ///< prompt and completion
  bool add_special_tokens = true;  ///< a template has written them itself

  /// Where the completion starts in `whole`: prompt and whole part there.
  std::size_t completion_start() const { return detail::common_prefix(prompt, whole); }
};

/// What a chat template sees for `messages` of a row. `special_tokens` maps bos_token, eos_token, ... to their text.
inline Json template_variables(const Json& messages, const RowContext& row, const Json& special_tokens,
                               bool add_generation_prompt) {
  Json variables = special_tokens;
  variables["messages"] = messages;
  variables["tools"] = row.tools;
  variables["documents"] = nullptr;
  variables["add_generation_prompt"] = add_generation_prompt;
  for (const auto& [key, value] : row.chat_template_kwargs.items()) variables[key] = value;
  return variables;
}

/// Renders a conversational row; `now` is the time for templates that write the date. Throws what the template throws.
template <RendersChat Template>
RowText render_conversation(const Row& row, const Template& chat_template, const Json& special_tokens,
                            std::time_t now) {
  Json messages = row.prompt;
  RowText text{.prompt = chat_template.render(template_variables(messages, row, special_tokens, true), now),
               .whole = {},
               .add_special_tokens = false};
  messages.insert(messages.end(), row.completion.begin(), row.completion.end());
  text.whole = chat_template.render(template_variables(messages, row, special_tokens, false), now);
  return text;
}

namespace detail {

/// `messages` rendered up to the end of the last one's text, for a reply that goes on from there, as transformers'
/// continue_final_message does it: by a mark behind the text.
template <RendersChat Template>
std::string render_open_end(Json messages, const Row& row, const Template& chat_template, const Json& special_tokens,
                            std::time_t now) {
  const std::string mark = "CONTINUE_FINAL_MESSAGE_TAG";
  Json* text = &messages.back()["content"];
  if (text->is_array())
    for (Json& part : *text)
      if (part.contains("text")) text = &part["text"];
  check(text->is_string(), "the prompt ends with a message of the assistant that has no text to go on from");
  *text = text->get<std::string>() + mark + ' ';
  std::string out = chat_template.render(template_variables(messages, row, special_tokens, false), now);
  const std::size_t at = out.rfind(mark);
  check(at != std::string::npos,
        "the chat template leaves out the prompt's last message, from which the completion goes on");
  const bool keeps_space = out.compare(at + mark.size(), 1, " ") == 0;
  out.resize(at);
  if (!keeps_space) out.resize(out.find_last_not_of(" \t\n\r\f\v") + 1);
  return out;
}

}  // namespace detail

/// The texts of a row as KTOTrainer made them up to TRL 0.22: a reply goes on from a prompt that ends with one of the
/// assistant's; the prompt ends where it parts from the whole; and no special tokens are added.
template <RendersChat Template>
RowText render_older(const Row& row, const Template* chat_template, const Json& special_tokens, std::time_t now) {
  if (row.prompt.is_string()) {
    const auto& prompt = row.prompt.get_ref<const std::string&>();
    return {
        .prompt = prompt, .whole = prompt + row.completion.get_ref<const std::string&>(), .add_special_tokens = false};
  }
  RowText text = render_conversation(row, *chat_template, special_tokens, now);
  if (!row.prompt.empty() && row.prompt.back().value("role", "") == "assistant")
    text.prompt = detail::render_open_end(row.prompt, row, *chat_template, special_tokens, now);
  text.prompt.resize(text.completion_start());
  return text;
}

/// The texts of a plain row: `eos_token` follows the completion unless it is there already.
inline RowText render_plain(const Row& row, std::string_view eos_token) {
  RowText text{.prompt = row.prompt.get<std::string>(), .whole = {}};
  text.whole = text.prompt + row.completion.get<std::string>();
  const auto& completion = row.completion.get_ref<const std::string&>();
  if (!completion.ends_with(eos_token)) text.whole += eos_token;
  return text;
}

}  // namespace kto
