// SPDX-License-Identifier: Apache-2.0
// The two format languages of Python's text: "%s of %d" % values, and "{} of {name:>5}".format(values).
#pragma once

#include <string>
#include <string_view>

#include "kto/text/detail/jinja_arguments.hpp"
#include "kto/text/detail/jinja_number_format.hpp"

namespace kto::detail::jinja {

/// The options of one conversion: [[fill]align][sign][#][0][width][grouping][.precision][type].
struct FormatSpec {
  std::string fill = " ";
  char align = 0;
  char sign = 0;  // what stands before a positive number: + or a space
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
  check(number >= 0 && number <= 0x10FFFF && (number < 0xD800 || number > 0xDFFF), number, " is no character");
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
    check(digit_next(), "the format '", whole, "' lacks its precision");
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

/// How a field of a format reaches into a value: value.name and value[key].
struct Lookup {
  Value (*attribute)(Run&, const Value&, std::string_view name);
  Value (*item)(Run&, const Value&, const Value& key);
};

/// template.format(...): fields {}, {0}, {name}, {0.attribute[item]!r:spec}, in a text marked safe with escaped values.
class Formatter {
 public:
  Formatter(Run& run, const Arguments& arguments, bool marked, const Lookup& look_up)
      : run_(run), arguments_(arguments), marked_(marked), look_up_(look_up) {}

  std::string format(std::string_view text, int level = 2) {
    check(level > 0, "fields of a format are nested too deeply");
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const char c = text[i];
      if ((c == '{' || c == '}') && i + 1 < text.size() && text[i + 1] == c) {
        out.push_back(text[i++]);
      } else if (c == '{') {
        std::size_t end = i + 1;
        for (int open = 1; end < text.size(); ++end) {
          open += text[end] == '{' ? 1 : text[end] == '}' ? -1 : 0;
          if (open == 0) break;
        }
        check(end < text.size(), "a field of a format lacks its '}'");
        out += field(text.substr(i + 1, end - i - 1), level);
        i = end;
      } else {
        check(c != '}', "a single '}' stands in a format");
        out.push_back(c);
      }
      run_.check_length(out.size());
    }
    return out;
  }

 private:
  std::string field(std::string_view text, int level) {
    std::size_t name_end = 0;
    for (bool in_brackets = false; name_end < text.size(); ++name_end) {
      const char c = text[name_end];
      in_brackets = c == '[' || (in_brackets && c != ']');
      if (!in_brackets && (c == '!' || c == ':')) break;
    }
    Value value = lookup(text.substr(0, name_end));
    std::string_view rest = text.substr(name_end);
    if (rest.starts_with('!')) {
      const char conversion = rest.size() > 1 ? rest[1] : ' ';
      check(conversion == 'r' || conversion == 's' || conversion == 'a', "a format has the unknown conversion '!",
            conversion, "'");
      check(rest.size() == 2 || rest[2] == ':', "a conversion of a format is followed by neither ':' nor '}'");
      value = conversion == 's'   ? make_text(text_of(run_, value))
              : conversion == 'r' ? keep_text(run_, repr_of(run_, value))
                                  : keep_text(run_, ascii_repr_of(run_, value));
      rest.remove_prefix(2);
    }
    if (rest.starts_with(':')) rest.remove_prefix(1);
    const std::string spec = format(rest, level - 1 > 0 || rest.find('{') == rest.npos ? std::max(level - 1, 1) : 0);
    if (!marked_) return format_value(run_, value, spec);
    check(!value.is_markup() || spec.empty(), "a text that is marked safe takes no format");
    return value.is_markup() ? std::string(value.text()) : escaped(format_value(run_, value, spec));
  }

  Value lookup(std::string_view name) {
    const std::size_t first_end = std::min(name.find_first_of(".["), name.size());
    Value value = first(name.substr(0, first_end));
    name.remove_prefix(first_end);
    while (!name.empty()) {
      const bool item = name[0] == '[';
      const std::size_t end = item ? name.find(']') : std::min(name.find_first_of(".[", 1), name.size());
      check(end != name.npos && end > 1 && (item || name[0] == '.'), "a field of a format is not valid");
      const std::string_view part = name.substr(1, end - 1);
      std::int64_t number = 0;
      const auto parsed = std::from_chars(part.data(), part.data() + part.size(), number);
      const bool numeric = parsed.ptr == part.data() + part.size() && part[0] != '-';
      value = item ? look_up_.item(run_, value, numeric ? make_int(number) : make_text(part))
                   : look_up_.attribute(run_, value, part);
      name.remove_prefix(item ? end + 1 : end);
    }
    return value;
  }

  Value first(std::string_view name) {
    std::size_t position = 0;
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), position);
    if (name.empty() || parsed.ptr == name.data() + name.size()) {
      if (name.empty()) position = next_++;
      check(position < arguments_.positional.size(), "a format refers to argument ", position, "; ",
            arguments_.positional.size(), " were given");
      return arguments_.positional[position];
    }
    for (const Keyword& keyword : arguments_.named)
      if (keyword.name == name) return keyword.value;
    fail("a format refers to '", name, "', which was not given");
  }

  Run& run_;
  const Arguments& arguments_;
  bool marked_;
  Lookup look_up_;
  std::size_t next_ = 0;
};

/// format % values, as printf.
inline Value format_percent(Run& run, const Value& format, const Value& values) {
  const std::string_view text = format.text();
  const bool is_mapping = values.is(Kind::dict);
  const std::span<const Value> arguments = values.is(Kind::tuple) ? values.list() : std::span<const Value>(&values, 1);
  std::size_t used = 0;
  const auto next = [&]() -> const Value& {
    check(used < arguments.size(), "a format has more conversions than values");
    return arguments[used++];
  };
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out.push_back(text[i]);
      continue;
    }
    const auto at = [&] { return i < text.size() ? text[i] : '\0'; };
    ++i;
    const Value* keyed = nullptr;
    if (at() == '(') {
      const std::size_t end = text.find(')', i);
      check(end != text.npos && is_mapping, "a format with %(name) needs a dict of values");
      keyed = find_key(run, values, make_text(text.substr(i + 1, end - i - 1)));
      check(keyed != nullptr, "a format refers to '", text.substr(i + 1, end - i - 1), "', which was not given");
      i = end + 1;
    }
    FormatSpec spec;
    for (; std::string_view("#0- +").find(at()) != std::string_view::npos && at() != 0; ++i) {
      if (at() == '#') spec.alternate = true;
      if (at() == '-') spec.align = '<';
      if (at() == '0' && spec.align == 0) spec.align = '=';
      if (at() == '+' || (at() == ' ' && spec.sign != '+')) spec.sign = at();
    }
    const auto number = [&]() -> std::int64_t {
      if (at() == '*') return ++i, index_of(next(), "a width or precision of a format");
      std::int64_t value = 0;
      for (; at() >= '0' && at() <= '9'; ++i) value = std::min<std::int64_t>(value * 10 + (at() - '0'), INT32_MAX);
      return value;
    };
    spec.width = number();
    if (spec.width < 0) spec.align = '<', spec.width = -spec.width;
    if (at() == '.') ++i, spec.precision = static_cast<int>(std::clamp<std::int64_t>(number(), 0, INT32_MAX));
    while (at() == 'h' || at() == 'l' || at() == 'L') ++i;
    spec.type = at();
    check(spec.type != 0 && std::string_view("%sradiuoxXeEfFgGc").find(spec.type) != std::string_view::npos,
          "a format has ", spec.type == 0 ? "a '%' at its end" : concat("the unknown conversion '%", spec.type, "'"));
    if (spec.type == '%') {
      out.push_back('%');
      continue;
    }
    const Value& value = keyed != nullptr ? *keyed : next();
    const Number numeric = number_of(value);
    if (spec.type == 's' || spec.type == 'r' || spec.type == 'a' || (spec.type == 'c' && value.is(Kind::string))) {
      check(spec.type != 'c' || num_chars(value.text()) == 1, "'%c' formats one character");
      std::string shown = spec.type == 'r'   ? repr_of(run, value)
                          : spec.type == 'a' ? ascii_repr_of(run, value)
                                             : std::string(text_of(run, value));
      if (format.is_markup() && !value.is_markup()) shown = escaped(shown);
      if (spec.precision >= 0) shown.resize(char_offset(shown, static_cast<std::size_t>(spec.precision)));
      out += padded(shown, spec.width, spec.align == '<' ? '<' : '>');
    } else if (spec.type == 'c') {
      out += padded(character_of(index_of(value, "the value of %c")), spec.width, spec.align == '<' ? '<' : '>');
    } else {
      check_defined(value);
      check(numeric.valid || value.is(Kind::big), "'%", spec.type, "' formats numbers, not ", type_name(value));
      if (spec.align == '=') spec.fill = "0";
      const bool real = std::string_view("eEfFgG").find(spec.type) != std::string_view::npos;
      if (real) {
        check(numeric.valid, "an integer of the template exceeds 64 bits");
        out += format_real(numeric.real, spec);
      } else {
        const bool whole = numeric.exact || (spec.type != 'o' && (spec.type | 0x20) != 'x');
        check(whole, "'%", spec.type, "' formats integers, not ", type_name(value));
        check(numeric.exact || std::abs(numeric.real) < 9.2e18, "an integer of the template exceeds 64 bits");
        const Value shown = numeric.exact ? value : make_int(static_cast<std::int64_t>(numeric.real));
        out += format_int(shown, spec);
      }
    }
    run.check_length(out.size());
  }
  check(is_mapping || used == arguments.size() || (values.is(Kind::list) && used == 0),
        "a format has fewer conversions than values");
  return keep_text(run, out, format.flag);
}

}  // namespace kto::detail::jinja
