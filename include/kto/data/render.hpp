// SPDX-License-Identifier: Apache-2.0
// Rows to text: applies the chat template to conversations and adds the end-of-sequence token to plain text, as
// transformers' apply_chat_template and TRL's KTOTrainer do.
#pragma once

#include <ctime>
#include <string>
#include <string_view>
#include <utility>

#include "kto/core/utf8.hpp"
#include "kto/data/concept.hpp"
#include "kto/data/row.hpp"

namespace kto {

/// The texts of a row, ready to be tokenized.
struct RowText {
  std::string prompt;              ///< including the template's generation prompt
  std::string whole;               ///< prompt and completion
  bool add_special_tokens = true;  ///< false if a template wrote them

  /// Where the completion starts in `whole`: where it diverges from `prompt`.
  std::size_t completion_start() const { return detail::common_prefix(prompt, whole); }
};

/// The template variables for `messages` of a row. `special_tokens` maps bos_token, eos_token, ... to their text.
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

/// Renders a conversational row. `now` is for templates that write the date. Throws what the template throws.
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

/// Renders `messages` up to the end of the last message's text, for a reply that continues it. Finds the end as
/// transformers' continue_final_message does: with a marker after the text.
template <RendersChat Template>
std::string render_open_end(Json messages, const Row& row, const Template& chat_template, const Json& special_tokens,
                            std::time_t now) {
  const std::string mark = "CONTINUE_FINAL_MESSAGE_TAG";
  Json* text = &messages.back()["content"];
  if (text->is_array())
    for (Json& part : *text)
      if (part.contains("text")) text = &part["text"];
  check(text->is_string(), "the prompt ends with an assistant message that has no text to continue");
  *text = text->get<std::string>() + mark + ' ';
  std::string out = chat_template.render(template_variables(messages, row, special_tokens, false), now);
  const std::size_t at = out.rfind(mark);
  check(at != std::string::npos, "the chat template omits the prompt's last message, which the completion continues");
  const bool keeps_space = out.compare(at + mark.size(), 1, " ") == 0;
  out.resize(at);
  if (!keeps_space) out.resize(out.find_last_not_of(" \t\n\r\f\v") + 1);
  return out;
}

}  // namespace detail

/// The texts of a row as in KTOTrainer up to TRL 0.22: a completion continues a prompt that ends with an assistant
/// message, the prompt ends where it diverges from the whole, and no special tokens are added.
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

/// The texts of a plain row. Appends `eos_token` unless the completion already ends with it.
inline RowText render_plain(const Row& row, std::string_view eos_token) {
  RowText text{.prompt = row.prompt.get<std::string>(), .whole = {}};
  text.whole = text.prompt + row.completion.get<std::string>();
  const auto& completion = row.completion.get_ref<const std::string&>();
  if (!completion.ends_with(eos_token)) text.whole += eos_token;
  return text;
}

}  // namespace kto
