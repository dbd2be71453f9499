// SPDX-License-Identifier: Apache-2.0
// GPT-2's byte alphabet: maps each byte to a printable character, so that vocabularies over bytes can be written as
// text.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>

#include "kto/text/regex/code_points.hpp"

namespace kto::tok {

/// The character of each byte: itself where it is printable in Latin-1, else the next one from U+0100 on.
inline const std::array<std::string, 256>& byte_alphabet() {
  static const auto alphabet = [] {
    std::array<std::string, 256> out;
    char32_t next = 0x100;
    for (char32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xFF && byte != 0xAD);
      append_utf8(out[byte], printable ? byte : next++);
    }
    return out;
  }();
  return alphabet;
}

/// The byte of a character of the alphabet; -1 for any other.
inline int byte_of_alphabet(char32_t c) {
  static const auto bytes = [] {
    std::array<int, 0x200> out;
    out.fill(-1);
    for (int byte = 0; byte < 256; ++byte)
      out[code_point_at(byte_alphabet()[static_cast<std::size_t>(byte)], 0)] = byte;
    return out;
  }();
  return c < bytes.size() ? bytes[c] : -1;
}

inline void append_byte_alphabet(std::string& out, std::string_view text) {
  const auto& alphabet = byte_alphabet();
  for (const char c : text) out += alphabet[static_cast<unsigned char>(c)];
}

inline std::string to_byte_alphabet(std::string_view text) {
  std::string out;
  append_byte_alphabet(out, text);
  return out;
}

/// The bytes that `text` spells; `text` itself if it has a character outside the alphabet.
inline std::string from_byte_alphabet(std::string_view text) {
  std::string bytes;
  for (std::size_t at = 0; at < text.size(); at += utf8_length(text[at])) {
    const int byte = byte_of_alphabet(code_point_at(text, at));
    if (byte < 0) return std::string(text);
    bytes.push_back(static_cast<char>(byte));
  }
  return bytes;
}

}  // namespace kto::tok
