// SPDX-License-Identifier: Apache-2.0
// Numbers of [-1, 1] in 8 bits by dynamic quantization (arXiv:2110.02861, section 1.3): seven decades, the topmost
// [0.1, 1], each cut into equal bins twice as many as those of the decade below it; a code stands for the middle of a
// bin. Beside them there are 0 and 1.
#pragma once

#include <array>
#include <cstdint>

namespace kto::detail {

inline constexpr int num_decades = 7;
inline constexpr std::array<float, num_decades> decade_tops{1e-6F, 1e-5F, 1e-4F, 1e-3F, 1e-2F, 1e-1F, 1.0F};

/// Decades of first, 2 first, 4 first, ... bins. Their magnitudes are numbered: 0 is zero, then come the bins, the last
/// is one. Decade i has first * 2^i bins, and as many magnitudes are below it, or with first 2 one less.
template <int first>
struct DynamicMagnitudes {
  static constexpr int bins(int decade) { return first << decade; }
  static constexpr int begin(int decade) { return bins(decade) - first + 1; }
  static constexpr int one = bins(num_decades) - first + 1;

  static constexpr float low(int decade) { return decade_tops[static_cast<std::size_t>(decade)] * 0.1F; }
  static constexpr float width(int decade) {
    return decade_tops[static_cast<std::size_t>(decade)] * 0.9F / static_cast<float>(bins(decade));
  }

  static constexpr std::array<float, one + 1> values = [] {
    std::array<float, one + 1> out{};
    for (int decade = 0; decade < num_decades; ++decade)
      for (int bin = 0; bin < bins(decade); ++bin)
        out[static_cast<std::size_t>(begin(decade)) + static_cast<std::size_t>(bin)] =
            low(decade) + (static_cast<float>(bin) + 0.5F) * width(decade);
    out[one] = 1;
    return out;
  }();

  /// Half-way between a decade's first magnitude and the one before it.
  static constexpr float middle(int decade) {
    const auto i = static_cast<std::size_t>(begin(decade));
    return (values[i - 1] + values[i]) / 2;
  }
  static constexpr float highest_middle = (values[one - 1] + values[one]) / 2;
};

/// Codes of [-1, 1], each number rounded to the nearest: 127 is zero, above it are positive magnitudes, below it
/// negative ones, which have no one.
struct SignedCode {
  using Magnitudes = DynamicMagnitudes<1>;
  static constexpr std::uint8_t zero = 127;
  static constexpr std::array<float, 256> values = [] {
    std::array<float, 256> out{};
    for (int code = 0; code < 256; ++code) {
      const int level = code - zero;
      const float magnitude = Magnitudes::values[static_cast<std::size_t>(level < 0 ? -level : level)];
      out[static_cast<std::size_t>(code)] = level < 0 ? -magnitude : magnitude;
    }
    return out;
  }();

  static std::uint8_t encode(float x) {
    const float size = x < 0 ? -x : x;
    float low = Magnitudes::low(0), per_bin = 1 / Magnitudes::width(0);
    int bins = 1;
    for (int decade = 1; decade < num_decades; ++decade) {
      const bool above = size >= Magnitudes::middle(decade);
      low = above ? Magnitudes::low(decade) : low;
      per_bin = above ? 1 / Magnitudes::width(decade) : per_bin;
      bins = above ? Magnitudes::bins(decade) : bins;
    }
    int bin = static_cast<int>((size - low) * per_bin);  // towards zero: a little below a decade is its first bin
    bin = bin < bins ? bin : bins - 1;
    int level = bins + bin;  // a decade begins where it has as many bins
    level = size < Magnitudes::middle(0) ? 0 : level;
    level = x >= Magnitudes::highest_middle ? Magnitudes::one : level;
    return static_cast<std::uint8_t>(x < 0 ? zero - level : zero + level);
  }
};

/// Codes of [0, 1] in which the sign's bit is one more for the bins. A number between two codes becomes the upper one
/// where `draw`, of [0, 1), says so: as often as it is nearer to it. Zero and one are exact, and nothing else becomes
/// zero: it is what a moment is divided by.
struct UnsignedCode {
  using Magnitudes = DynamicMagnitudes<2>;
  static constexpr std::uint8_t zero = 0;
  static constexpr const std::array<float, 256>& values = Magnitudes::values;

  static std::uint8_t encode(float x, float draw) {
    float low = Magnitudes::low(0), per_bin = 1 / Magnitudes::width(0);
    int bins = Magnitudes::bins(0);
    for (int decade = 1; decade < num_decades; ++decade) {
      const bool above = x >= Magnitudes::low(decade);
      low = above ? Magnitudes::low(decade) : low;
      per_bin = above ? 1 / Magnitudes::width(decade) : per_bin;
      bins = above ? Magnitudes::bins(decade) : bins;
    }
    // Bins from the one before the decade's on, so that what is truncated is not negative.
    int level = bins - 2 + static_cast<int>((x - low) * per_bin + 0.5F + draw);
    level = level < 1 ? 1 : level;
    constexpr float last = Magnitudes::values[Magnitudes::one - 1];  // half a bin below one
    level = x > last ? Magnitudes::one - 1 + static_cast<int>((x - last) * (1 / (1 - last)) + draw) : level;
    level = x >= 1 ? Magnitudes::one : level;
    level = x > 0 ? level : 0;
    return static_cast<std::uint8_t>(level);
  }
};

}  // namespace kto::detail
