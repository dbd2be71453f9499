// SPDX-License-Identifier: Apache-2.0
// Checks the shape of a row: which columns it has and what they hold. Each check throws an Error that names the column
// or key and what was expected; the reader of rows prepends file and line.
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/core/utf8.hpp"
#include "kto/data/row.hpp"

namespace kto::detail {

/// Describes an unexpected value: "the string "yes"", "the number 3", "a list".
inline std::string describe_value(const Json& value) {
  constexpr std::size_t max_shown = 40;
  if (value.is_object()) return "an object";
  if (value.is_array()) return value.empty() ? "an empty list" : "a list";
  if (value.is_number()) return "the number " + value.dump();
  if (!value.is_string()) return value.dump();  // null, true, false
  return "the string " + Json(shortened(value.get_ref<const std::string&>(), max_shown)).dump();
}

/// The value of a column or key; null if it is absent or null.
inline const Json* find_value(const Json& object, std::string_view key) {
  const auto found = object.find(std::string(key));
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

inline const Json& need_value(const Json& object, std::string_view key, std::string_view name,
                              std::string_view expected) {
  if (const Json* value = find_value(object, key)) return *value;
  fail(name, object.contains(std::string(key)) ? " is null" : " is missing", "; expected ", expected);
}

inline void check_part(const Json& part, const std::string& name) {
  const auto type = part.is_object() ? part.find("type") : part.end();
  const bool has_text = part.is_object() && part.contains("text");
  check(part.is_object() && (has_text || (type != part.end() && type->is_string())), name, " is ", describe_value(part),
        "; expected an object such as {\"type\": \"text\", \"text\": \"...\"}");
  check(!has_text || part["text"].is_string(), name, ".text is ", has_text ? describe_value(part["text"]) : "",
        "; expected a string");
  if (type == part.end() || !type->is_string()) return;
  const auto& kind = type->get_ref<const std::string&>();
  check(kind != "text" || has_text, name, ".text is missing; expected a string");
  for (const std::string_view medium : {"image", "video", "audio"})
    check(kind.find(medium) == std::string::npos, name, " is of type ", kind,
          "; only text is supported: remove rows with other media");
}

/// Whether content is a tool's result as JSON, which a template prints as is, and not a list of text and media parts.
inline bool is_tool_result(std::string_view role, const Json& content) {
  constexpr std::array<std::string_view, 3> tools{"tool", "ipython", "function"};
  constexpr std::array<std::string_view, 6> media{"image", "image_url", "video", "video_url", "audio", "audio_url"};
  if (std::ranges::find(tools, role) == tools.end()) return false;
  const auto is_part = [&](const Json& item) {
    const Json* type = item.is_object() ? find_value(item, "type") : nullptr;
    const Json* text = item.is_object() ? find_value(item, "text") : nullptr;
    if (type == nullptr || !type->is_string()) return false;
    const auto& kind = type->get_ref<const std::string&>();
    return kind == "text" ? text != nullptr && text->is_string() : std::ranges::find(media, kind) != media.end();
  };
  return content.is_object() || (content.is_array() && !std::ranges::all_of(content, is_part));
}

/// Checks a message: it has a role, and content (a string or a list of parts; for a tool, any JSON list or object)
/// unless it has tool calls or reasoning instead.
inline void check_message(const Json& message, const std::string& name) {
  check(message.is_object(), name, " is ", describe_value(message), "; expected a message with role and content");
  const bool share_gpt = message.contains("from") && message.contains("value");
  const Json& role =
      need_value(message, "role", name + ".role",
                 share_gpt ? "the keys role and content instead of from and value" : "a string such as user");
  check(role.is_string() && !role.get_ref<const std::string&>().empty(), name, ".role is ", describe_value(role),
        "; expected a string such as user");
  for (const char* key : {"tool_calls", "function_call", "reasoning_content", "thinking", "reasoning"})
    if (find_value(message, key) && !find_value(message, "content")) return;
  const Json& content = need_value(message, "content", name + ".content", "a string");
  if (is_tool_result(role.get_ref<const std::string&>(), content)) return;
  check(content.is_string() || content.is_array(), name, ".content is ", describe_value(content),
        "; expected a string (or a list of parts)");
  if (content.is_array())
    for (std::size_t i = 0; i < content.size(); ++i) check_part(content[i], concat(name, ".content[", i, "]"));
}

/// True for a list of messages, false for a string.
inline bool check_turns(const Json& row, std::string_view column) {
  constexpr std::string_view expected = "a string, or a list of messages";
  const Json& value = need_value(row, column, concat('"', column, '"'), expected);
  check(value.is_string() || value.is_array(), '"', column, "\" is ", describe_value(value), "; expected ", expected);
  check(!value.is_array() || !value.empty(), '"', column, "\" is an empty list; expected at least one message");
  if (value.is_array())
    for (std::size_t i = 0; i < value.size(); ++i) check_message(value[i], concat(column, '[', i, ']'));
  return value.is_array();
}

inline void check_same_turns(bool a_conversational, std::string_view a, bool b_conversational, std::string_view b) {
  const auto kind = [](bool conversational) { return conversational ? " is a list of messages" : " is a string"; };
  check(a_conversational == b_conversational, '"', a, '"', kind(a_conversational), " but \"", b, '"',
        kind(b_conversational), "; expected both to be strings, or both lists of messages");
}

/// The value of a label: true or false, or 1 or 0; empty for anything else.
inline std::optional<bool> label_of(const Json& label) {
  if (label.is_boolean()) return label.get<bool>();
  if (label.is_number() && (label == 0 || label == 1)) return label == 1;
  return {};
}

/// The columns of rows, and those passed to a chat template.
inline const std::set<std::string> pair_columns{"prompt", "chosen", "rejected"},
    row_columns{"prompt", "completion", "label"},
    id_columns{"completion_input_ids", "completion_labels", "completion_attention_mask", "label"},
    template_columns{"tools", "chat_template_kwargs"};

/// The columns that make up this row, depending on which it has.
inline const std::set<std::string>& used_columns(const Json& row) {
  if (find_value(row, "completion_input_ids")) return id_columns;
  return find_value(row, "chosen") || find_value(row, "rejected") ? pair_columns : row_columns;
}

/// Checks the columns of an unpaired row or a pair, and returns which it is. Does not check the ids of a tokenized row.
inline RowKind check_columns(const Json& row) {
  check(row.is_object(), "a row is ", describe_value(row), "; expected an object with prompt, completion and label");
  for (const std::string column : {"image", "images"})
    if (const Json* media = find_value(row, column); media && !media->empty())
      fail('"', column, "\" holds media; only text is supported: remove the column or the row");

  if (find_value(row, "completion_input_ids")) {
    const Json& label = need_value(row, "label", "\"label\"", "true or false");
    check(label_of(label).has_value(), "\"label\" is ", describe_value(label), "; expected true or false");
    return {RowFormat::Tokenized, false};
  }
  if (!find_value(row, "chosen") && !find_value(row, "rejected")) {
    for (const std::string_view column : {"prompt", "completion", "label"}) {
      if (row.contains(std::string(column))) continue;
      std::string has;
      for (const auto& [key, value] : row.items()) has += (has.empty() ? "" : ", ") + key;
      fail('"', column,
           "\" is missing; expected prompt, completion and label, or prompt, chosen and rejected; the row has ",
           has.empty() ? "no columns" : shortened(has, 200));
    }
    const bool conversational = check_turns(row, "prompt");
    check_same_turns(conversational, "prompt", check_turns(row, "completion"), "completion");
    const Json& label = row["label"];
    check(label_of(label).has_value(), "\"label\" is ", describe_value(label), "; expected true or false",
          label.is_string() ? " without quotes" : "");
    return {RowFormat::Unpaired, conversational};
  }

  check(!find_value(row, "completion"),
        "a pair (chosen, rejected) must not have the column \"completion\" too; remove ", "or rename it");
  const bool conversational = check_turns(row, "chosen");
  check_same_turns(conversational, "chosen", check_turns(row, "rejected"), "rejected");
  if (!find_value(row, "prompt")) return {RowFormat::ImplicitPrompt, conversational};
  const bool prompt_conversational = check_turns(row, "prompt");
  if (conversational && !prompt_conversational) return {RowFormat::ImplicitPrompt, true};  // a copy of the first turn
  check_same_turns(prompt_conversational, "prompt", conversational, "chosen");
  return {RowFormat::Paired, conversational};
}

/// The tools of a row: a list of JSON schemas, or such a list as a JSON string.
inline Json check_tools(const Json& row) {
  const Json* column = find_value(row, "tools");
  if (!column) return {};
  constexpr std::string_view expected = "; expected a list of JSON schemas, or such a list as a JSON string";
  Json tools = *column;
  if (column->is_string()) {
    const auto& text = column->get_ref<const std::string&>();
    check(find_too_deep(text) == std::string_view::npos, "\"tools\" nests lists and objects more than ", max_json_depth,
          " deep", expected);
    tools = Json::parse(text, nullptr, false);
    check(!tools.is_discarded(), "\"tools\" is ", describe_value(*column), ", which is not JSON", expected);
    if (tools.is_null()) return {};
  }
  check(tools.is_array(), "\"tools\" is ", describe_value(tools), expected);
  for (const Json& tool : tools) check(tool.is_object(), "\"tools\" holds ", describe_value(tool), expected);
  return tools;
}

/// Variables for the chat template. Those that control the tokenizer, or that the trainer sets, are refused by name.
inline Json check_template_variables(const Json& row) {
  const Json* column = find_value(row, "chat_template_kwargs");
  if (!column) return Json::object();
  check(column->is_object(), "\"chat_template_kwargs\" is ", describe_value(*column),
        "; expected an object of variables for the chat template");
  for (const std::string name :
       {"messages", "conversation", "add_generation_prompt", "continue_final_message", "chat_template", "tokenize",
        "sanitize_control_tokens", "padding", "truncation", "max_length", "return_tensors", "return_dict",
        "return_assistant_tokens_mask", "tokenizer_kwargs"})
    check(!column->contains(name), "chat_template_kwargs.", name, " cannot be set by a row; remove it");
  return *column;
}

}  // namespace kto::detail
