// SPDX-License-Identifier: Apache-2.0
// "%s of %5d" % values: the older, printf-style format language.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "kto/text/jinja/format_spec.hpp"
#include "kto/text/jinja/slice.hpp"

namespace kto::jinja {

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
      if (at() == '*') {
        ++i;
        return index_of(next(), "a width or precision of a format");
      }
      std::int64_t value = 0;
      for (; at() >= '0' && at() <= '9'; ++i) value = std::min<std::int64_t>(value * 10 + (at() - '0'), INT32_MAX);
      return value;
    };
    spec.width = number();
    if (spec.width < 0) {
      spec.align = '<';
      spec.width = -spec.width;
    }
    if (at() == '.') {
      ++i;
      spec.precision = static_cast<int>(std::clamp<std::int64_t>(number(), 0, INT32_MAX));
    }
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

}  // namespace kto::jinja
