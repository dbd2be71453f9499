// SPDX-License-Identifier: Apache-2.0
// Values as text: Python's str(), repr() and json.dumps().
#pragma once

#include <charconv>
#include <cmath>
#include <string>
#include <string_view>

#include "kto/text/jinja/unicode.hpp"
#include "kto/text/jinja/value.hpp"

namespace kto::jinja {

/// The shortest digits that parse back to `real`, without the point, and the power of ten of the first digit.
struct Decimal {
  bool negative;
  std::string digits;
  int exponent;
};

/// `text` is "-d.ddde+xx", as std::to_chars and printf write it.
inline Decimal read_scientific(std::string_view text) {
  Decimal decimal{text.starts_with('-'), {}, 0};
  const std::size_t e = text.find('e');
  for (const char c : text.substr(0, e))
    if (c >= '0' && c <= '9') decimal.digits.push_back(c);
  const std::size_t digits = e + (text[e + 1] == '+' ? 2 : 1);
  std::from_chars(text.data() + digits, text.data() + text.size(), decimal.exponent);
  return decimal;
}

inline std::string real_text(double real) {
  if (std::isnan(real)) return "nan";
  if (std::isinf(real)) return real < 0 ? "-inf" : "inf";
  char buffer[40];
  const char* end = std::to_chars(buffer, buffer + sizeof buffer, real, std::chars_format::scientific).ptr;
  const Decimal decimal = read_scientific({buffer, static_cast<std::size_t>(end - buffer)});
  const std::string& digits = decimal.digits;
  std::string out = decimal.negative ? "-" : "";
  const int exponent = decimal.exponent;
  const auto count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (count > 1) out.append(".").append(digits, 1);
    out += exponent < 0 ? "e-" : "e+";
    const std::string power = std::to_string(std::abs(exponent));
    return out + (power.size() < 2 ? "0" : "") + power;
  }
  if (exponent < 0) return out + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  if (exponent >= count - 1)
    return out + digits + std::string(static_cast<std::size_t>(exponent - count + 1), '0') + ".0";
  const auto point = static_cast<std::size_t>(exponent) + 1;
  return out + digits.substr(0, point) + "." + digits.substr(point);
}

inline void append_hex(std::string& out, char32_t point, int width) {
  for (int shift = 4 * (width - 1); shift >= 0; shift -= 4) out.push_back("0123456789abcdef"[(point >> shift) & 15]);
}

/// \xe9, \u2028 or \U0001f600
inline void append_escape(std::string& out, char32_t c) {
  const int width = c < 0x100 ? 2 : c < 0x10000 ? 4 : 8;
  out += width == 2 ? "\\x" : width == 4 ? "\\u" : "\\U";
  append_hex(out, c, width);
}

/// A string literal of Python.
inline void append_string_repr(std::string& out, std::string_view text) {
  const bool quote = text.find('\'') != text.npos && text.find('"') == text.npos;
  const char mark = quote ? '"' : '\'';
  out.push_back(mark);
  for_each_point(text, [&](char32_t c) {
    if (c == static_cast<unsigned char>(mark) || c == '\\') {
      out.push_back('\\');
      out.push_back(static_cast<char>(c));
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if (is_printable(c)) {
      encode(out, c);
    } else {
      append_escape(out, c);
    }
  });
  out.push_back(mark);
}

inline void append_repr(Run& run, std::string& out, const Value& value);

template <class Items, class Append>
void append_joined(Run& run, std::string& out, const Items& items, std::string_view separator, Append append) {
  bool first = true;
  for (const auto& item : items) {
    if (!first) out += separator;
    first = false;
    append(item);
    run.check_length(out.size());
  }
}

/// repr(value)
inline void append_repr(Run& run, std::string& out, const Value& value) {
  const Nested nested(run);
  const auto repr = [&](const Value& item) { append_repr(run, out, item); };
  const auto pair = [&](const Pair& item) {
    append_repr(run, out, item.key);
    append_repr(run, out += ": ", item.value);
  };
  switch (value.kind) {
    case Kind::missing:
    case Kind::undefined:
      out += "Undefined";
      break;
    case Kind::none:
      out += "None";
      break;
    case Kind::boolean:
      out += value.boolean ? "True" : "False";
      break;
    case Kind::integer:
      out += std::to_string(value.integer);
      break;
    case Kind::big:
      out += value.text();
      break;
    case Kind::real:
      out += real_text(value.real);
      break;
    case Kind::string:
      if (value.is_markup()) out += "Markup(";
      append_string_repr(out, value.text());
      if (value.is_markup()) out += ')';
      break;
    case Kind::list:
      append_joined(run, out += '[', value.list(), ", ", repr);
      out += ']';
      break;
    case Kind::tuple:
      append_joined(run, out += '(', value.list(), ", ", repr);
      out += value.size == 1 ? ",)" : ")";
      break;
    case Kind::dict:
      append_joined(run, out += '{', value.dict(), ", ", pair);
      out += '}';
      break;
    case Kind::range: {
      const Range& range = value.as<Range>();
      out += concat("range(", range.start, ", ", range.stop);
      if (range.step != 1) out += concat(", ", range.step);
      out += ')';
      break;
    }
    case Kind::view:
      out.append(type_name(value)).append("([");
      append_joined(run, out, value.dict(), ", ", [&](const Pair& item) {
        if (value.flag != items) return repr(value.flag == keys ? item.key : item.value);
        append_repr(run, out += '(', item.key);
        append_repr(run, out += ", ", item.value);
        out += ')';
      });
      out += "])";
      break;
    case Kind::space:
      append_joined(run, out += "<Namespace {", value.as<Namespace>().attributes(), ", ", pair);
      out += "}>";
      break;
    case Kind::macro:
      out += "<Macro ";
      if (value.as<Macro>().name.empty())
        out += "anonymous";
      else
        append_string_repr(out, value.as<Macro>().name);
      out += '>';
      break;
    case Kind::generator:
    case Kind::function:
    case Kind::method:
    case Kind::loop:
    case Kind::cycler:
    case Kind::joiner:
      out.append("<").append(type_name(value)).append(" object>");
      break;
  }
}

/// str(value)
inline void append_text(Run& run, std::string& out, const Value& value) {
  if (value.is(Kind::string)) {
    out += value.text();
  } else if (!value.is(Kind::undefined)) {
    append_repr(run, out, value);
  }
  run.check_length(out.size());
}

inline Value keep_text(Run& run, std::string_view text, std::uint8_t flag = plain) {
  run.check_length(text.size());
  return make_text(run.arena.keep(text), flag);
}

/// str(value), without copying strings; the result is not marked safe, even if the string was.
inline std::string_view text_of(Run& run, const Value& value) {
  if (value.is(Kind::string)) return value.text();
  if (value.is(Kind::undefined)) return {};
  std::string out;
  append_repr(run, out, value);
  return run.arena.keep(out);
}

/// Strings stay as they are, marked or not; anything else becomes str(value).
inline Value soft_text(Run& run, const Value& value) {
  return value.is(Kind::string) ? value : make_text(text_of(run, value));
}

inline std::string repr_of(Run& run, const Value& value) {
  std::string out;
  append_repr(run, out, value);
  return out;
}

/// ascii(value): its repr with everything but ASCII escaped
inline std::string ascii_repr_of(Run& run, const Value& value) {
  std::string out;
  for_each_point(repr_of(run, value), [&](char32_t c) { c < 0x80 ? encode(out, c) : append_escape(out, c); });
  return out;
}

/// &, <, >, ' and " as HTML entities.
inline std::string escaped(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

/// The text of a value inside text marked safe: escaped, unless it is marked itself.
inline Value escape(Run& run, const Value& value) {
  if (value.is_markup()) return value;
  return keep_text(run, escaped(text_of(run, value)), markup);
}

}  // namespace kto::jinja
