// SPDX-License-Identifier: Apache-2.0
// Filters that work on one value: text, numbers, JSON.
#pragma once

#include <string>
#include <string_view>

#include "kto/text/jinja/attributes.hpp"
#include "kto/text/jinja/json.hpp"
#include "kto/text/jinja/percent.hpp"

namespace kto::jinja {

inline Value filter_default(Run&, const Value& value, const Arguments& arguments) {
  const auto [otherwise, boolean] = bind<2>("default", arguments, {"default_value", "boolean"});
  if (!value.is(Kind::undefined) && (!is_true(boolean) || is_true(value))) return value;
  return otherwise.is_missing() ? make_text("") : otherwise;
}

template <std::string (*change)(std::string_view)>
Value filter_case(Run& run, const Value& value, const Arguments& arguments) {
  check_no_arguments("the filter", arguments);
  const Value text = soft_text(run, value);
  return keep_like(run, text, change(text.text()));
}

/// Capitalizes each run of letters after white space, - ( { [ or <, and lower-cases the rest.
inline std::string title_words(std::string_view text) {
  std::string out;
  bool first = true;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const char32_t c = decode(text, at);
    const bool separator =
        is_space(c) || (c < 0x80 && std::string_view("-({[<").find(static_cast<char>(c)) != std::string_view::npos);
    if (separator || first)
      append_upper(out, c);
    else
      append_lower_at(out, text, begin, at, c);
    first = separator;
  }
  return out;
}

inline Value filter_trim(Run& run, const Value& value, const Arguments& arguments) {
  const Value chars = bind<1>("trim", arguments, {"chars"})[0];
  const Value text = soft_text(run, value);
  if (chars.is_missing()) return like(text, strip(text.text(), is_space, true, true));
  return strip_method<true, true>(run, text, {{&chars, 1}, {}});
}

inline Value filter_replace(Run& run, const Value& value, const Arguments& arguments) {
  const auto [old, with, count] = bind<3>("replace", arguments, {"old", "new", "count"}, 2);
  const std::int64_t most = count.is(Kind::none) ? -1 : index_or(count, -1, "the count of replace");
  return keep_text(run, replaced(run, text_of(run, value), text_of(run, old), text_of(run, with), most));
}

inline Value filter_string(Run& run, const Value& value, const Arguments& arguments) {
  check_no_arguments("string", arguments);
  return soft_text(run, value);
}

inline Value filter_safe(Run& run, const Value& value, const Arguments& arguments) {
  check_no_arguments("safe", arguments);
  return make_text(text_of(run, value), markup);
}

inline Value filter_escape(Run& run, const Value& value, const Arguments& arguments) {
  check_no_arguments("escape", arguments);
  return escape(run, value);
}

inline Value filter_force_escape(Run& run, const Value& value, const Arguments& arguments) {
  check_no_arguments("forceescape", arguments);
  return keep_text(run, escaped(text_of(run, value)), markup);
}

inline Value filter_format(Run& run, const Value& value, const Arguments& arguments) {
  check(arguments.positional.empty() || arguments.named.empty(), "format takes positional or named values, not both");
  const Value format = soft_text(run, value);
  if (arguments.named.empty()) return format_percent(run, format, tuple_of(arguments.positional));
  const auto pairs = run.arena.array<Pair>(arguments.named.size());
  for (std::size_t i = 0; i < pairs.size(); ++i)
    pairs[i] = {make_text(arguments.named[i].name), arguments.named[i].value};
  return format_percent(run, format, make_dict(pairs));
}

inline Value filter_indent(Run& run, const Value& value, const Arguments& arguments) {
  const auto [width, first, blank] = bind<3>("indent", arguments, {"width", "first", "blank"});
  const std::string_view text = string_of(value, "the value of indent");
  const std::string indention = width.is(Kind::string)
                                    ? std::string(value.is_markup() ? escape(run, width).text() : width.text())
                                    : padded("", index_or(width, 4, "the width of indent"), '<');
  std::string out;
  bool first_line = true;
  const std::string with_end = concat(text, "\n");
  for (const std::string_view line : split_lines(with_end)) {
    if (!first_line) out += '\n';
    const bool empty_line = line.empty() && !is_true(blank);
    if (first_line ? is_true(first) : !empty_line) out += indention;
    out += line;
    first_line = false;
    run.check_length(out.size());
  }
  return keep_like(run, value, out);
}

inline Value filter_truncate(Run& run, const Value& value, const Arguments& arguments) {
  const auto [length, kill_words, end, leeway] =
      bind<4>("truncate", arguments, {"length", "killwords", "end", "leeway"});
  const std::int64_t most = index_or(length, 255, "the length of truncate");
  const std::int64_t slack = leeway.is(Kind::none) ? 5 : index_or(leeway, 5, "the leeway of truncate");
  const std::string_view ending = end.is_missing() ? "..." : string_of(end, "the end of truncate");
  const auto kept = most - static_cast<std::int64_t>(num_chars(ending));
  check(kept >= 0 && slack >= 0, "truncate: the length is less than that of the ending, or the leeway is negative");
  if (value.is(Kind::undefined) || static_cast<std::int64_t>(length_of(value)) <= most + slack) return value;
  std::string_view text = string_of(value, "the value of truncate");
  text = text.substr(0, char_offset(text, static_cast<std::size_t>(kept)));
  if (!is_true(kill_words)) text = text.substr(0, text.rfind(' '));
  return keep_like(run, value, concat(text, value.is_markup() ? escaped(ending) : std::string(ending)));
}

inline Value filter_center(Run& run, const Value& value, const Arguments& arguments) {
  const Value width = bind<1>("center", arguments, {"width"})[0];
  const Value wanted = width.is_missing() ? make_int(80) : width;
  return pad_method<'^'>(run, soft_text(run, value), {{&wanted, 1}, {}});
}

inline Value filter_wordcount(Run& run, const Value& value, const Arguments& arguments) {
  check_no_arguments("wordcount", arguments);
  std::int64_t count = 0;
  bool in_word = false;
  for_each_point(text_of(run, value), [&](char32_t c) {
    const bool word = is_word(c);
    count += word && !in_word ? 1 : 0;
    in_word = word;
  });
  return make_int(count);
}

inline Value filter_urlencode(Run& run, const Value& value, const Arguments& arguments) {
  check_no_arguments("urlencode", arguments);
  const auto quoted = [&](const Value& part, bool in_query) {
    std::string out;
    for (const char c : text_of(run, part)) {
      const bool safe = is_identifier(static_cast<unsigned char>(c) < 0x80 ? static_cast<char32_t>(c) : U' ', false) ||
                        c == '-' || c == '.' || c == '~' || (c == '/' && !in_query);
      if (safe) {
        out += c;
      } else if (c == ' ' && in_query) {
        out += '+';
      } else {
        std::string hex;
        append_hex(hex, static_cast<unsigned char>(c), 2);
        out += '%' + upper_text(hex);
      }
    }
    return out;
  };
  if (value.is(Kind::string) || !is_iterable(value)) return keep_text(run, quoted(value, false));
  std::string out;
  const Value pairs = value.is(Kind::dict) ? view_method<items>(run, value, {}) : value;
  Value pair;
  for (Iterator source(pairs); source.next(run, pair);) {
    const auto parts = elements_of(run, pair);
    check(parts.size() == 2, "urlencode takes text, a dict or pairs");
    out += concat(out.empty() ? "" : "&", quoted(parts[0], true), "=", quoted(parts[1], true));
  }
  return keep_text(run, out);
}

// --- Numbers

inline Value filter_int(Run& run, const Value& value, const Arguments& arguments) {
  const auto [otherwise, base] = bind<2>("int", arguments, {"default", "base"});
  check_defined(value);
  const Value fallback = otherwise.is_missing() ? make_int(0) : otherwise;
  double real = 0;
  if (value.is(Kind::string)) {
    if (const auto whole = read_int(run, value.text(), index_or(base, 10, "the base of int"))) return *whole;
    const auto number = read_real(value.text());
    if (!number || !std::isfinite(*number)) return fallback;
    real = *number;
  } else {
    const Number number = number_of(value);
    if (number.valid && number.exact) return make_int(number.integer);
    if (!number.valid) return value.is(Kind::big) ? value : fallback;
    check(!std::isinf(number.real), "int: infinity is not an integer");
    if (std::isnan(number.real)) return fallback;
    real = number.real;
  }
  check(std::abs(real) < 9.2e18, "an integer of the template exceeds 64 bits");
  return make_int(static_cast<std::int64_t>(real));
}

inline std::optional<double> real_of(const Value& value) {
  check_defined(value);
  if (const Number number = number_of(value); number.valid) return number.real;
  return value.is(Kind::string) || value.is(Kind::big) ? read_real(value.text()) : std::nullopt;
}

inline Value filter_float(Run&, const Value& value, const Arguments& arguments) {
  const Value otherwise = bind<1>("float", arguments, {"default"})[0];
  if (const auto real = real_of(value)) return make_real(*real);
  return otherwise.is_missing() ? make_real(0) : otherwise;
}

inline Value filter_round(Run&, const Value& value, const Arguments& arguments) {
  const auto [precision, method] = bind<2>("round", arguments, {"precision", "method"});
  const std::string_view how = method.is_missing() ? "common" : string_of(method, "the method of round");
  check(how == "common" || how == "ceil" || how == "floor", "round: the method is '", how,
        "'; expected common, ceil or floor");
  check_defined(value);
  const Number number = number_of(value);
  check(number.valid, "round: a value of type ", type_name(value), " is not a number");
  const std::int64_t places = index_or(precision, 0, "the precision of round");
  if (how == "common") {
    if (!number.exact) return make_real(rounded(number.real, places));
    if (places >= 0) return make_int(number.integer);
    if (places < -18) return make_int(0);
    std::int64_t scale = 1;
    for (std::int64_t i = places; i < 0; ++i) scale *= 10;
    const std::int64_t down = floor_divide(make_int(number.integer), make_int(scale)).integer;
    const std::int64_t rest = number.integer - down * scale;
    return make_int((down + (rest > scale / 2 || (rest * 2 == scale && down % 2 != 0) ? 1 : 0)) * scale);
  }
  check(std::abs(places) <= 300, "round: the precision is ", places, "; expected at most 300");
  const double scale = std::pow(10.0, static_cast<double>(places));
  return make_real((how == "ceil" ? std::ceil(number.real * scale) : std::floor(number.real * scale)) / scale);
}

inline Value filter_abs(Run&, const Value& value, const Arguments& arguments) {
  check_no_arguments("abs", arguments);
  const Number number = number_of(value);
  if (number.valid && !number.exact) return make_real(std::abs(number.real));
  return negate(value, number.integer < 0);
}

inline Value filter_filesizeformat(Run& run, const Value& value, const Arguments& arguments) {
  const bool binary = is_true(bind<1>("filesizeformat", arguments, {"binary"})[0]);
  const auto real = real_of(value);
  check(real.has_value() && std::abs(*real) < 1e300, "filesizeformat: a value of type ", type_name(value),
        " is not a size");
  const double base = binary ? 1024 : 1000;
  double size = *real;
  if (size == 1) return make_text("1 Byte");
  if (size < base) return keep_text(run, concat(static_cast<std::int64_t>(size), " Bytes"));
  constexpr std::string_view prefixes = "kMGTPEZY";
  std::size_t i = 0;
  for (size /= base; size >= base && i + 1 < prefixes.size(); ++i) size /= base;
  const std::string prefix = binary && i == 0 ? "K" : std::string(1, prefixes[i]);
  return keep_text(run, concat(real_digits(size, 'f', 1, false), " ", prefix, binary ? "iB" : "B"));
}

// --- JSON

inline Value filter_tojson(Run& run, const Value& value, const Arguments& arguments) {
  const auto [ascii, indent, separators, sort_keys] =
      bind<4>("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style{.ascii = is_true(ascii), .sort_keys = is_true(sort_keys)};
  if (!indent.is_missing() && !indent.is(Kind::none)) {
    style.pretty = true;
    style.comma = ",";
    style.indent = indent.is(Kind::string) ? std::string(indent.text())
                                           : padded("", index_of(indent, "the indent of tojson"), '<');
  }
  if (!separators.is_missing() && !separators.is(Kind::none)) {
    const auto both = elements_of(run, separators);
    check(both.size() == 2, "tojson: separators holds ", both.size(), " texts; expected two");
    style.comma = string_of(both[0], "the first separator of tojson");
    style.colon = string_of(both[1], "the second separator of tojson");
  }
  std::string out;
  append_json(run, out, value, style);
  return keep_text(run, out);
}

inline Value filter_attr(Run& run, const Value& value, const Arguments& arguments) {
  const Value name = bind<1>("attr", arguments, {"name"}, 1)[0];
  check_defined(value);
  const Value found = find_attribute(run, value, resolve_attribute(string_of(name, "the name for attr")));
  return found.is_missing() ? make_undefined(run, {{}, value, name}) : found;
}

}  // namespace kto::jinja
