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
inline std::size_t utf8_length(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

/// The character at `at`, in valid UTF-8.
inline char32_t code_point_at(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(text[at + i])); };
  switch (utf8_length(text[at])) {
    case 1:
      return byte(0);
    case 2:
      return (byte(0) & 0x1F) << 6 | (byte(1) & 0x3F);
    case 3:
      return (byte(0) & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    default:
      return (byte(0) & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
  }
}

/// Length of the well-formed UTF-8 character at the start of `bytes`; 0 if there is none. `broken` is then the length
/// of the ill-formed part that one replacement character replaces (Unicode 15, section 3.9, maximal subparts).
inline std::size_t well_formed_length(std::string_view bytes, std::size_t& broken) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char lead = byte(0);
  broken = 1;
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  unsigned char low = 0x80, high = 0xBF;  // of the second byte: no surrogates, no overlong forms, not past U+10FFFF
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (std::size_t i = 1; i < length; ++i, low = 0x80, high = 0xBF) {
    if (i >= bytes.size() || byte(i) < low || byte(i) > high) return 0;
    broken = i + 1;
  }
  return length;
}

/// `bytes` with every ill-formed part replaced by U+FFFD.
inline std::string replace_invalid_utf8(std::string_view bytes) {
  std::string text;
  for (std::size_t at = 0, broken = 0; at < bytes.size();) {
    const std::size_t length = well_formed_length(bytes.substr(at, 4), broken);
    text += length > 0 ? bytes.substr(at, length) : std::string_view("\xEF\xBF\xBD");
    at += length > 0 ? length : broken;
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
  while ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
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
