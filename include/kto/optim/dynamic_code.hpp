// SPDX-License-Identifier: Apache-2.0
// Numbers in [-1, 1] as 8-bit codes, by dynamic quantization (arXiv:2110.02861, section 1.3): seven decades, the
// highest being [0.1, 1], each divided into equal bins, with twice as many bins as the decade below. A code stands for
// the middle of a bin. 0 and 1 have codes of their own.
#pragma once

#include <array>
#include <cstdint>

namespace kto::detail {

inline constexpr int num_decades = 7;
inline constexpr std::array<float, num_decades> decade_tops{1e-6F, 1e-5F, 1e-4F, 1e-3F, 1e-2F, 1e-1F, 1.0F};

/// Decades of first, 2 first, 4 first, ... bins. Magnitudes are numbered: 0 is zero, then come the bins, and the last
/// is one. Decade i has first * 2^i bins, and as many magnitudes are below it, or one less if first is 2.
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

  /// Halfway between a decade's first magnitude and the one below it.
  static constexpr float middle(int decade) {
    const auto i = static_cast<std::size_t>(begin(decade));
    return (values[i - 1] + values[i]) / 2;
  }
  static constexpr float highest_middle = (values[one - 1] + values[one]) / 2;
};

/// Signed codes for [-1, 1], rounded to nearest: 127 is zero, positive magnitudes are above it and negative ones below.
/// -1 has no code.
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
    int bin = static_cast<int>((size - low) * per_bin);  // truncation maps numbers just below a decade to its first bin
    bin = bin < bins ? bin : bins - 1;
    int level = bins + bin;  // a decade's first level equals its number of bins
    level = size < Magnitudes::middle(0) ? 0 : level;
    level = x >= Magnitudes::highest_middle ? Magnitudes::one : level;
    return static_cast<std::uint8_t>(x < 0 ? zero - level : zero + level);
  }
};

/// Unsigned codes for [0, 1], which use the sign bit for more bins. A number between two codes is rounded up or down by
/// `draw` in [0, 1), with probabilities by distance (stochastic rounding). Zero and one are exact, and nothing else
/// becomes zero, because updates are divided by the root of this moment.
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
    // Counts bins from the one below the decade, so that the truncated number is not negative.
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
