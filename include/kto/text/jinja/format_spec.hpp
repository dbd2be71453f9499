// SPDX-License-Identifier: Apache-2.0
// One number or string in a format: width, alignment, sign, grouping, precision, as in Python's format(value, spec).
#pragma once

#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>

#include "kto/text/jinja/number_format.hpp"

namespace kto::jinja {

/// The options of one conversion: [[fill]align][sign][#][0][width][grouping][.precision][type].
struct FormatSpec {
  std::string fill = " ";
  char align = 0;
  char sign = 0;  // the sign of a positive number: + or a space
  bool alternate = false;
  std::int64_t width = 0;
  char grouping = 0;
  int precision = -1;
  char type = 0;
};

/// A number with its sign, its digits (the first `whole` of them before the point) in groups, and padding; '=' aligns
/// by filling between sign and digits.
inline std::string place_number(std::string_view sign, std::string digits, std::size_t whole, const FormatSpec& spec,
                                std::size_t group_size = 3) {
  const bool fill_digits = spec.align == '=' && spec.fill == "0";
  if (spec.grouping != 0) {
    std::string before = digits.substr(0, whole);
    const auto place = [&] { return grouped(before, spec.grouping, group_size) + digits.substr(whole); };
    std::string shown = place();
    for (; fill_digits && static_cast<std::int64_t>(sign.size() + shown.size()) < spec.width; shown = place())
      before.insert(0, "0");
    digits = shown;
  }
  if (spec.align != '=') return padded(concat(sign, digits), spec.width, spec.align == 0 ? '>' : spec.align, spec.fill);
  return concat(sign, padded(digits, spec.width - static_cast<std::int64_t>(sign.size()), '>', spec.fill));
}

inline std::string sign_text(bool negative, char option) {
  return negative ? "-" : option == 0 || option == '-' ? "" : std::string(1, option);
}

/// chr(number)
inline std::string character_of(std::int64_t number) {
  check(number >= 0 && number <= 0x10FFFF && (number < 0xD800 || number > 0xDFFF), number, " is not a character");
  std::string text;
  encode(text, static_cast<char32_t>(number));
  return text;
}

/// Decimal digits to base 2, 8, 10 or 16; `value` is boolean, integer or big.
inline std::string format_int(const Value& value, const FormatSpec& spec) {
  const char type = spec.type == 0 || spec.type == 'n' || spec.type == 'i' || spec.type == 'u' ? 'd' : spec.type;
  const unsigned base = type == 'd' ? 10 : type == 'o' ? 8 : type == 'b' ? 2 : 16;
  const std::int64_t number = number_of(value).integer;
  check(!value.is(Kind::big) || base == 10, "an integer of the template exceeds 64 bits");
  const bool negative = value.is(Kind::big) ? value.text().starts_with('-') : number < 0;
  std::string digits =
      value.is(Kind::big) ? std::string(value.text().substr(negative)) : magnitude(absolute(number), base);
  if (spec.precision > 0) digits = padded(digits, spec.precision, '>', "0");
  std::string sign = sign_text(negative, spec.sign);
  if (spec.alternate && base != 10) sign += concat('0', static_cast<char>(type | 0x20));
  if (type == 'X') digits = upper_text(digits);
  if (type == 'X' && spec.alternate) sign.back() = 'X';
  return place_number(sign, digits, digits.size(), spec, base == 10 ? 3 : 4);
}

inline std::string format_real(double number, const FormatSpec& spec) {
  const bool percent = spec.type == '%';
  const char type = spec.type == 0 || spec.type == 'n' ? 'g' : percent ? 'f' : spec.type;
  std::string digits;
  if (spec.type == 0 && spec.precision < 0 && std::isfinite(number)) {
    digits = real_text(std::abs(number));
  } else {
    digits = real_digits(std::abs(percent ? number * 100 : number), type, spec.precision < 0 ? 6 : spec.precision,
                         spec.alternate);
    if (spec.type == 0 && digits.find_first_of(".en") == digits.npos) {
      if (static_cast<int>(digits.size()) < spec.precision)
        digits += ".0";
      else
        digits = real_digits(std::abs(number), 'e', std::max(spec.precision - 1, 0), false);
      if (const auto e = digits.find('e'); e != digits.npos) {  // the digits of 'g' in scientific form
        std::size_t end = e;
        while (end > 2 && digits[end - 1] == '0' && digits.find('.') < end) --end;
        if (digits[end - 1] == '.') --end;
        digits.erase(end, e - end);
      }
    }
  }
  if (percent) digits += '%';
  const std::size_t whole = std::min(digits.find_first_not_of("0123456789"), digits.size());
  const bool negative = std::signbit(number) && !std::isnan(number);
  return place_number(sign_text(negative, spec.sign), digits, whole, spec);
}

inline FormatSpec read_spec(std::string_view text) {
  FormatSpec spec;
  const std::string_view whole = text;
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  std::size_t after_fill = 0;
  if (!text.empty()) decode(text, after_fill);
  const bool has_fill = after_fill > 0 && after_fill < text.size() && is_align(text[after_fill]);
  if (has_fill) {
    spec.fill = text.substr(0, after_fill);
    spec.align = text[after_fill];
    text.remove_prefix(after_fill + 1);
  } else if (!text.empty() && is_align(text[0])) {
    spec.align = text[0];
    text.remove_prefix(1);
  }
  const auto take = [&](std::string_view options) {
    if (text.empty() || options.find(text[0]) == options.npos) return '\0';
    const char c = text[0];
    text.remove_prefix(1);
    return c;
  };
  const auto number = [&] {
    int value = -1;
    const auto end = std::from_chars(text.data(), text.data() + text.size(), value);
    check(end.ec != std::errc::result_out_of_range, "the format '", whole, "' has too large a number");
    text.remove_prefix(static_cast<std::size_t>(end.ptr - text.data()));
    return value;
  };
  const auto digit_next = [&] { return !text.empty() && text[0] >= '0' && text[0] <= '9'; };
  if (const char sign = take("+- ")) spec.sign = sign;
  spec.alternate = take("#") != 0;
  if (take("0") != 0 && !has_fill) {
    spec.fill = "0";
    if (spec.align == 0) spec.align = '=';
  }
  if (digit_next()) spec.width = number();
  check(spec.width <= 100'000, "the format '", whole, "' is too wide");
  spec.grouping = take(",_");
  if (take(".") != 0) {
    check(digit_next(), "the format '", whole, "' has no precision after the point");
    spec.precision = number();
  }
  spec.type = take("sdbcoxXneEfFgG%");
  check(text.empty(), "the format '", whole, "' is not valid");
  return spec;
}

/// format(value, spec)
inline std::string format_value(Run& run, const Value& value, std::string_view text) {
  if (text.empty()) return std::string(text_of(run, value));
  check_defined(value);
  const FormatSpec spec = read_spec(text);
  const auto wrong = [&] { fail("the format '", text, "' does not fit a value of type ", type_name(value)); };
  if (value.is(Kind::string)) {
    if ((spec.type != 0 && spec.type != 's') || (spec.align == '=' && spec.fill != "0") || spec.sign != 0 ||
        spec.grouping != 0 || spec.alternate)
      wrong();
    std::string_view shown = value.text();
    if (spec.precision >= 0) shown = shown.substr(0, char_offset(shown, static_cast<std::size_t>(spec.precision)));
    return padded(shown, spec.width, spec.align == 0 || spec.align == '=' ? '<' : spec.align, spec.fill);
  }
  const Number number = number_of(value);
  if ((!number.valid && !value.is(Kind::big)) || (spec.type == 'n' && spec.grouping != 0)) wrong();
  const bool as_real = std::string_view("eEfFgG%").find(spec.type == 0 ? 's' : spec.type) != std::string_view::npos;
  if ((number.valid && !number.exact) || (as_real && number.valid)) {
    if (spec.type != 0 && spec.type != 'n' && !as_real) wrong();
    return format_real(number.real, spec);
  }
  if (spec.type == 's' || spec.precision >= 0 || as_real) wrong();
  if (spec.type != 'c') return format_int(value, spec);
  return padded(character_of(number.integer), spec.width, spec.align == 0 ? '<' : spec.align, spec.fill);
}

}  // namespace kto::jinja
