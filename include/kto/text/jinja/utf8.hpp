// SPDX-License-Identifier: Apache-2.0
// UTF-8 text by code points, as Python counts characters. Invalid bytes pass through unchanged, each as one character.
#pragma once

#include <cstddef>
#include <cstring>
#include <string>
#include <string_view>

#include "kto/core/utf8.hpp"

namespace kto::jinja {

/// Finds `part` in `text` at or after `from`, or returns npos. Takes linear time; string_view::find may take the
/// product of the lengths.
inline std::size_t find_text(std::string_view text, std::string_view part, std::size_t from = 0) {
  if (from > text.size() || part.size() <= 16) return text.find(part, from);
  const void* found = ::memmem(text.data() + from, text.size() - from, part.data(), part.size());
  return found == nullptr ? text.npos : static_cast<std::size_t>(static_cast<const char*>(found) - text.data());
}

/// The last occurrence of `part`, or npos.
inline std::size_t rfind_text(std::string_view text, std::string_view part) {
  if (part.size() <= 16) return text.rfind(part);
  const std::size_t found = find_text(std::string(text.rbegin(), text.rend()), std::string(part.rbegin(), part.rend()));
  return found == text.npos ? text.npos : text.size() - found - part.size();
}

inline bool is_ascii(std::string_view text) {
  unsigned char high = 0;
  for (const char c : text) high |= static_cast<unsigned char>(c);
  return high < 0x80;
}

/// Reads the code point at `at` and advances `at`. A byte that does not start a valid sequence gives 0xDC00 + byte.
inline char32_t decode(std::string_view text, std::size_t& at) {
  const std::size_t begin = at, size = detail::code_point_size(text, at);
  at += size > 0 ? size : 1;
  return size > 0 ? detail::code_point(text, begin, size) : 0xDC00 + static_cast<unsigned char>(text[begin]);
}

inline void encode(std::string& out, char32_t point) {
  if (point >= 0xDC80 && point <= 0xDCFF)  // a stray byte, see decode
    out.push_back(static_cast<char>(static_cast<unsigned char>(point - 0xDC00)));
  else
    detail::append_utf8(out, point);
}

/// Calls f(code point) for each character.
template <class F>
void for_each_point(std::string_view text, F f) {
  for (std::size_t at = 0; at < text.size();) f(decode(text, at));
}

inline std::size_t num_chars(std::string_view text) {
  if (is_ascii(text)) return text.size();
  std::size_t count = 0;
  for_each_point(text, [&](char32_t) { ++count; });
  return count;
}

/// The byte offset of character `index`, or the end of the text if there are fewer.
inline std::size_t char_offset(std::string_view text, std::size_t index) {
  std::size_t at = 0;
  while (index > 0 && at < text.size()) {
    decode(text, at);
    --index;
  }
  return at;
}

/// The start of the character that ends at byte `end`.
inline std::size_t char_before(std::string_view text, std::size_t end) {
  std::size_t begin = end - 1;
  while (begin > 0 && end - begin < 4 && detail::is_continuation(text[begin])) --begin;
  std::size_t at = begin;
  decode(text, at);
  return at == end ? begin : end - 1;
}

/// Strips characters for which `drop` is true from both ends.
template <class Drop>
std::string_view strip(std::string_view text, Drop drop, bool left, bool right) {
  std::size_t begin = 0;
  while (left && begin < text.size()) {
    std::size_t at = begin;
    if (!drop(decode(text, at))) break;
    begin = at;
  }
  std::size_t end = text.size();
  while (right && end > begin) {
    const std::size_t last = char_before(text, end);
    std::size_t at = last;
    if (!drop(decode(text, at))) break;
    end = last;
  }
  return text.substr(begin, end - begin);
}

}  // namespace kto::jinja
