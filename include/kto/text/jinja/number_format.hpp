// SPDX-License-Identifier: Apache-2.0
// Parses numbers as Python's int() and float() do, and formats them for the format languages.
#pragma once

#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>

#include "kto/text/jinja/operators.hpp"

namespace kto::jinja {

/// int(text, base); empty where Python raises ValueError.
inline std::optional<Value> read_int(Run& run, std::string_view text, std::int64_t base = 10) {
  text = strip(text, is_space, true, true);
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  const auto prefixed = [&](char letter) { return text.size() > 2 && text[0] == '0' && (text[1] | 0x20) == letter; };
  const int prefix = prefixed('x') ? 16 : prefixed('o') ? 8 : prefixed('b') ? 2 : 0;
  if (prefix != 0 && (base == 0 || base == prefix)) {
    text.remove_prefix(2);
    if (text.starts_with('_')) text.remove_prefix(1);
    base = prefix;
  } else if (base == 0) {
    base = 10;
    if (text.size() > 1 && text[0] == '0' && text.find_first_not_of("0_") != text.npos) return std::nullopt;
  }
  check(base >= 2 && base <= 36, "int: the base is ", base, "; expected 0 or 2 to 36");
  std::string digits;
  bool separated = true;  // an underscore is only allowed between two digits
  for (const char c : text) {
    if (c == '_' && !separated) {
      separated = true;
      continue;
    }
    const int digit = c >= '0' && c <= '9'                     ? c - '0'
                      : (c | 0x20) >= 'a' && (c | 0x20) <= 'z' ? (c | 0x20) - 'a' + 10
                                                               : 99;
    if (digit >= base) return std::nullopt;
    digits.push_back(c);
    separated = false;
  }
  if (separated) return std::nullopt;
  if (negative) digits.insert(0, "-");
  std::int64_t number = 0;
  const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), number, static_cast<int>(base));
  if (result.ec == std::errc()) return make_int(number);
  check(base == 10, "an integer of the template exceeds 64 bits");
  digits.erase(negative, std::min(digits.find_first_not_of("-0"), digits.size()) - negative);
  Value big = keep_text(run, digits);
  big.kind = Kind::big;
  return big;
}

/// float(text); empty where Python raises ValueError.
inline std::optional<double> read_real(std::string_view text) {
  text = strip(text, is_space, true, true);
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  std::string plain_text;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto digit = [&](std::size_t at) { return at < text.size() && text[at] >= '0' && text[at] <= '9'; };
    if (text[i] == '_' && i > 0 && digit(i - 1) && digit(i + 1)) continue;
    plain_text.push_back(text[i]);
  }
  if (plain_text.empty() || plain_text[0] == '-' || plain_text[0] == '+') return std::nullopt;
  const std::string folded_text = lower_text(plain_text);
  const double sign = negative ? -1 : 1;
  if (folded_text == "inf" || folded_text == "infinity") return sign * HUGE_VAL;
  if (folded_text == "nan") return std::nan("");
  if (plain_text[0] != '.' && (plain_text[0] < '0' || plain_text[0] > '9')) return std::nullopt;
  double number = 0;
  const auto result = std::from_chars(plain_text.data(), plain_text.data() + plain_text.size(), number);
  if (result.ptr != plain_text.data() + plain_text.size() || result.ec == std::errc::invalid_argument)
    return std::nullopt;
  if (result.ec == std::errc::result_out_of_range) number = std::strtod(plain_text.c_str(), nullptr);
  return sign * number;
}

/// Digits of a non-negative number in base 2, 8, 10 or 16.
inline std::string magnitude(std::uint64_t number, unsigned base) {
  std::string digits;
  do {
    digits.insert(digits.begin(), "0123456789abcdef"[number % base]);
    number /= base;
  } while (number > 0);
  return digits;
}

inline std::uint64_t absolute(std::int64_t number) {
  return number < 0 ? 0 - static_cast<std::uint64_t>(number) : static_cast<std::uint64_t>(number);
}

/// printf's output for a finite number and one of e, E, f, F, g, G.
inline std::string real_digits(double number, char type, int precision, bool alternate) {
  if (!std::isfinite(number)) {
    const std::string text = std::isnan(number) ? "nan" : number < 0 ? "-inf" : "inf";
    return type == 'E' || type == 'F' || type == 'G' ? upper_text(text) : text;
  }
  check(precision <= 400, "a number is formatted to ", precision, " digits; at most 400 are supported");
  const char format[] = {
      '%', alternate ? '#' : '.', alternate ? '.' : '*', alternate ? '*' : type, alternate ? type : '\0', '\0'};
  char buffer[800];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
  const int length = std::snprintf(buffer, sizeof buffer, format, precision, number);
#pragma GCC diagnostic pop
  return {buffer, static_cast<std::size_t>(length)};
}

/// Rounds as Python's round(): to the nearest decimal, halves of the exact binary value to even.
inline double rounded(double number, std::int64_t precision) {
  if (!std::isfinite(number) || precision > 340) return number;
  if (precision >= 0) return std::strtod(real_digits(number, 'f', static_cast<int>(precision), false).c_str(), nullptr);
  if (precision < -310) return std::copysign(0.0, number);
  const double scale = std::pow(10.0, static_cast<double>(-precision));
  return std::nearbyint(number / scale) * scale;
}

inline std::string grouped(std::string_view digits, char separator, std::size_t every = 3) {
  std::string out;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % every == 0) out.push_back(separator);
    out.push_back(digits[i]);
  }
  return out;
}

/// Pads a string to `width` characters. align: '<' left, '>' right, '^' centre (an odd space goes to the right).
inline std::string padded(std::string_view text, std::int64_t width, char align, std::string_view fill = " ") {
  const auto size = static_cast<std::int64_t>(num_chars(text));
  const std::int64_t room = std::max<std::int64_t>(width - size, 0);
  check(room <= (64 << 20), "a text is padded to ", width, " characters: too long");
  const std::int64_t before = align == '>' ? room : align == '^' ? room / 2 : 0;
  std::string out;
  for (std::int64_t i = 0; i < before; ++i) out += fill;
  out += text;
  for (std::int64_t i = before; i < room; ++i) out += fill;
  return out;
}

}  // namespace kto::jinja
