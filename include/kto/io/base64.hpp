// SPDX-License-Identifier: Apache-2.0
// Bytes as text, in base 64 (RFC 4648).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "kto/core/error.hpp"

namespace kto {

inline constexpr std::string_view base64_digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

inline std::string encode_base64(std::string_view bytes) {
  std::string text;
  for (std::size_t at = 0; at < bytes.size(); at += 3) {
    std::uint32_t bits = 0;
    for (std::size_t i = 0; i < 3; ++i)
      bits = bits << 8U | (at + i < bytes.size() ? static_cast<unsigned char>(bytes[at + i]) : 0U);
    for (std::size_t i = 0; i < 4; ++i)
      text += at + i <= bytes.size() ? base64_digits[bits >> (18 - 6 * i) & 63U] : '=';
  }
  return text;
}

/// The bytes of standard base64. Throws Error naming `where` if it is malformed.
inline std::string decode_base64(std::string_view text, std::string_view where) {
  while (text.ends_with('=')) text.remove_suffix(1);
  std::string bytes;
  std::uint32_t bits = 0;
  int num_bits = 0;
  for (const char c : text) {
    const std::size_t digit = base64_digits.find(c);
    check(digit != std::string_view::npos, where, ": not base64; is the file complete?");
    bits = bits << 6U | static_cast<std::uint32_t>(digit);
    num_bits += 6;
    if (num_bits < 8) continue;
    num_bits -= 8;
    bytes.push_back(static_cast<char>(bits >> static_cast<unsigned>(num_bits) & 0xFFU));
  }
  return bytes;
}

}  // namespace kto
