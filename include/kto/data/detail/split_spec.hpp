// SPDX-License-Identifier: Apache-2.0
// Parses split strings of datasets, such as "train[:10%]+test[-5:]".
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/core/error.hpp"

namespace kto::detail {

/// Rows of one split: all, or a slice by number or percent. Negative bounds count from the end.
struct SplitSlice {
  std::string split;
  std::optional<std::int64_t> from = {}, to = {};
  bool percent = false;
  bool whole_percents = false;  ///< one percent is a hundredth of the rows, rounded down

  /// Whether bounds depend on the number of rows.
  bool needs_count() const { return percent || from.value_or(0) < 0 || to.value_or(0) < 0; }

  /// The range [first, second) of the `count` rows.
  std::pair<std::size_t, std::size_t> range(std::size_t count) const {
    const auto n = static_cast<std::int64_t>(count);
    const auto place = [&](std::optional<std::int64_t> bound, std::int64_t otherwise) {
      std::int64_t at = bound.value_or(otherwise);
      if (bound && percent)
        at = whole_percents ? at * (n / 100)
                            : static_cast<std::int64_t>(std::nearbyint(static_cast<double>(at * n) / 100.0));
      return static_cast<std::size_t>(std::clamp<std::int64_t>(at < 0 ? at + n : at, 0, n));
    };
    const std::size_t begin = place(from, 0), end = place(to, n);
    return {begin, std::max(begin, end)};
  }
};

/// Parses one term, such as "train[10%:50%]". Throws Error.
inline SplitSlice parse_slice(std::string_view term, std::string_view whole) {
  const auto expect = [&](bool holds, const auto&... why) {
    check(holds, "the split \"", whole, "\": ", why...,
          "; expected a name such as train, a slice such as train[:100] or train[10%:50%], or several joined by +");
  };
  SplitSlice out{.split = std::string(term.substr(0, term.find_first_of("[(")))};
  term.remove_prefix(out.split.size());
  expect(!out.split.empty() && out.split.find_first_of("])% \t") == std::string::npos, "a name is missing or broken");
  if (term.starts_with('[')) {
    const std::size_t colon = term.find(':'), close = term.find(']');
    expect(close != std::string_view::npos && colon < close, "expected [FROM:TO]");
    const auto bound = [&](std::string_view text) -> std::optional<std::int64_t> {
      if (text.ends_with('%')) {
        out.percent = true;
        text.remove_suffix(1);
        expect(!text.empty(), "a bound is not an integer");
      }
      if (text.empty()) return {};
      std::string digits(text);
      std::erase(digits, '_');
      std::int64_t value = 0;
      const char* end = digits.data() + digits.size();
      const auto read = std::from_chars(digits.data(), end, value);
      expect(read.ec == std::errc() && read.ptr == end && std::abs(value) <= std::int64_t{1} << 53, "the bound ", text,
             " is not an integer, or is too large");
      return value;
    };
    out.from = bound(term.substr(1, colon - 1));
    out.to = bound(term.substr(colon + 1, close - colon - 1));
    for (const auto& value : {out.from, out.to})
      expect(!out.percent || std::abs(value.value_or(0)) <= 100, "percentages are from -100 to 100");
    term.remove_prefix(close + 1);
  }
  if (term.empty()) return out;
  expect(term == "(closest)" || term == "(pct1_dropremainder)", "the suffix after the slice is unknown");
  expect(out.percent, "only percentages are rounded");
  out.whole_percents = term != "(closest)";
  return out;
}

/// Parses all terms. Throws Error that quotes `text` and says what was expected.
inline std::vector<SplitSlice> parse_split(std::string_view text) {
  std::vector<SplitSlice> out;
  for (std::string_view rest = text;;) {
    const std::size_t plus = rest.find('+');
    std::string_view term = rest.substr(0, plus);
    while (term.starts_with(' ')) term.remove_prefix(1);
    while (term.ends_with(' ')) term.remove_suffix(1);
    out.push_back(parse_slice(term, text));
    if (plus == std::string_view::npos) return out;
    rest.remove_prefix(plus + 1);
  }
}

}  // namespace kto::detail
