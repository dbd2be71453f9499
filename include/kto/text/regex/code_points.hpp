// SPDX-License-Identifier: Apache-2.0
// UTF-8 to and from code points, for the tokenizer, whose input has already been checked to be valid UTF-8.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "kto/core/utf8.hpp"

namespace kto::tok {

using detail::append_utf8;
using detail::find_invalid_utf8;

/// Bytes of the character that starts with `lead`, in valid UTF-8.
inline std::size_t utf8_length(char lead) { return detail::code_point_size(lead); }

/// The character at `at`, in valid UTF-8.
inline char32_t code_point_at(std::string_view text, std::size_t at) {
  return detail::code_point(text, at, utf8_length(text[at]));
}

/// `bytes` with every ill-formed part replaced by U+FFFD.
inline std::string replace_invalid_utf8(std::string_view bytes) {
  std::string text;
  for (std::size_t at = 0, broken = 0; at < bytes.size();) {
    const std::size_t size = detail::code_point_size(bytes, at, broken);
    text += size > 0 ? bytes.substr(at, size) : std::string_view("\xEF\xBF\xBD");
    at += size > 0 ? size : broken;
  }
  return text;
}

inline bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/// Length of the white space at the start of `text`, in bytes.
inline std::size_t leading_space(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size() && is_white_space(code_point_at(text, at))) at += utf8_length(text[at]);
  return at;
}

/// Start of the last character of a non-empty text.
inline std::size_t last_character(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (detail::is_continuation(text[at])) --at;
  return at;
}

/// Length of the white space at the end of `text`, in bytes.
inline std::size_t trailing_space(std::string_view text) {
  std::size_t end = text.size();
  while (end > 0) {
    const std::size_t at = last_character(text.substr(0, end));
    if (!is_white_space(code_point_at(text, at))) break;
    end = at;
  }
  return text.size() - end;
}

}  // namespace kto::tok
