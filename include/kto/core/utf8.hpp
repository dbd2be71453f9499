// SPDX-License-Identifier: Apache-2.0
// UTF-8: code points read and written, and the bytes that are none.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace kto::detail {

inline bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0U) == 0x80U; }

/// Bytes of the code point that begins with `lead`, where that is valid UTF-8.
inline std::size_t code_point_size(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

/// Bytes of the code point that starts at `at`, or 0 when what stands there is not valid UTF-8. `broken` is then how
/// many bytes are wrong together: those that one replacement character stands for (Unicode 15, section 3.9, maximal
/// subparts).
inline std::size_t code_point_size(std::string_view text, std::size_t at, std::size_t& broken) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const unsigned char lead = byte(0);
  broken = 1;
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  const std::size_t size = code_point_size(text[at]);
  unsigned char low = 0x80, high = 0xBF;  // of the second byte: no surrogates, no overlong forms, not past U+10FFFF
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (std::size_t i = 1; i < size; ++i, low = 0x80, high = 0xBF) {
    if (at + i >= text.size() || byte(i) < low || byte(i) > high) return 0;
    broken = i + 1;
  }
  return size;
}
inline std::size_t code_point_size(std::string_view text, std::size_t at) {
  std::size_t broken = 0;
  return code_point_size(text, at, broken);
}

/// The code point of the `size` bytes that start at `at`, as code_point_size counts them.
inline char32_t code_point(std::string_view text, std::size_t at, std::size_t size) {
  const auto byte = [&](std::size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(text[at + i])); };
  switch (size) {
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

inline void append_utf8(std::string& out, char32_t point) {
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(static_cast<unsigned char>(byte))); };
  if (point < 0x80) return put(point);
  if (point < 0x800) {
    put(0xC0 | point >> 6);
  } else {
    if (point < 0x10000) {
      put(0xE0 | point >> 12);
    } else {
      put(0xF0 | point >> 18);
      put(0x80 | (point >> 12 & 0x3F));
    }
    put(0x80 | (point >> 6 & 0x3F));
  }
  put(0x80 | (point & 0x3F));
}

/// Offset of the first byte that is not valid UTF-8; npos when all of them are.
inline std::size_t find_invalid_utf8(std::string_view text) {
  constexpr std::uint64_t high_bits = 0x8080808080808080U;
  for (std::size_t at = 0; at < text.size();) {
    if (std::uint64_t eight = 0; at + sizeof eight <= text.size()) {  // most text is ASCII
      std::memcpy(&eight, text.data() + at, sizeof eight);
      if ((eight & high_bits) == 0) {
        at += sizeof eight;
        continue;
      }
    }
    const std::size_t size = code_point_size(text, at);
    if (size == 0) return at;
    at += size;
  }
  return std::string_view::npos;
}

/// Bytes of the longest common prefix of two valid UTF-8 texts that ends between two code points.
inline std::size_t common_prefix(std::string_view a, std::string_view b) {
  auto length = static_cast<std::size_t>(std::ranges::mismatch(a, b).in1 - a.begin());
  while (length > 0 && length < a.size() && is_continuation(a[length])) --length;
  return length;
}

}  // namespace kto::detail
