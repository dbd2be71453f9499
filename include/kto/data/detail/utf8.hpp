// SPDX-License-Identifier: Apache-2.0
// UTF-8 as the data room needs it: where a text stops being valid, and cuts between code points.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "kto/core/utf8.hpp"

namespace kto::detail {

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
