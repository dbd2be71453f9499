// SPDX-License-Identifier: Apache-2.0
// Reads members of the steps in tokenizer.json.
#pragma once

#include <string>
#include <string_view>

#include "kto/io/json.hpp"
#include "kto/text/regex/onig_pattern.hpp"
#include "kto/text/regex/regex.hpp"

namespace kto::tok {

/// `object[key]`. Throws Error naming `where` if it is missing.
inline const Json& json_member(const Json& object, const std::string& key, std::string_view where) {
  const auto found = object.find(key);
  if (found == object.end()) fail(where, ": \"", key, "\" is missing in ", object.dump().substr(0, 200));
  return *found;
}

inline std::string json_text(const Json& object, const std::string& key, std::string_view where) {
  const Json& value = json_member(object, key, where);
  if (!value.is_string()) fail(where, ": \"", key, "\" must be a string, not ", value.dump().substr(0, 200));
  return value.get<std::string>();
}

/// Matches `text` itself.
inline Regex literal_regex(std::string_view text, std::string_view where) {
  std::string pattern;
  for (std::size_t at = 0; at < text.size(); at += utf8_length(text[at])) pattern += quoted(code_point_at(text, at));
  return Regex(pattern, where);
}

inline Regex onig_regex(std::string_view pattern, std::string_view where) {
  return Regex(OnigPattern::translate(pattern, where), where);
}

/// The member "pattern" of a step: {"String": text} or {"Regex": Oniguruma pattern}.
inline Regex json_pattern(const Json& spec, std::string_view where) {
  const Json& pattern = json_member(spec, "pattern", where);
  if (pattern.contains("String")) return literal_regex(json_text(pattern, "String", where), where);
  if (pattern.contains("Regex")) return onig_regex(json_text(pattern, "Regex", where), where);
  fail(where, ": \"pattern\" must hold \"String\" or \"Regex\", not ", pattern.dump().substr(0, 200));
}

}  // namespace kto::tok
