// SPDX-License-Identifier: Apache-2.0
// Where the code points of UTF-8 text begin, and which bytes are none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace kto::detail {

inline bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0U) == 0x80U; }

/// Bytes of the code point that starts at `at`, or 0 when what stands there is not valid UTF-8.
inline std::size_t code_point_size(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint32_t>(static_cast<unsigned char>(text[i])); };
  const std::uint32_t lead = byte(at);
  if (lead < 0x80) return 1;
  const std::size_t size = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || at + size > text.size()) return 0;
  for (std::size_t i = 1; i < size; ++i)
    if (!is_continuation(text[at + i])) return 0;
  const std::uint32_t second = byte(at + 1);
  const bool overlong = (lead == 0xE0 && second < 0xA0) || (lead == 0xF0 && second < 0x90);
  const bool surrogate = lead == 0xED && second > 0x9F;
  const bool beyond = lead == 0xF4 && second > 0x8F;
  return overlong || surrogate || beyond ? 0 : size;
}

/// The code point of the `size` bytes that start at `at`, as code_point_size counts them.
inline char32_t code_point(std::string_view text, std::size_t at, std::size_t size) {
  const auto byte = [&](std::size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(text[at + i])); };
  if (size == 1) return byte(0);
  char32_t out = byte(0) & (0xFFU >> (size + 1));
  for (std::size_t i = 1; i < size; ++i) out = out << 6 | (byte(i) & 0x3FU);
  return out;
}

}  // namespace kto::detail
