// SPDX-License-Identifier: Apache-2.0
// String methods that test and transform, and the table of all string methods. A string marked safe gives strings
// marked safe, and escapes its arguments.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "kto/text/jinja/number_format.hpp"
#include "kto/text/jinja/split.hpp"
#include "kto/text/jinja/text_search.hpp"

namespace kto::jinja {

/// Whether the string is not empty and `holds` is true for each character.
template <auto holds>
Value every_method(Run&, const Value& self, const Arguments& arguments) {
  check_no_arguments("a test of a text", arguments);
  bool all = self.size > 0;
  for_each_point(self.text(), [&](char32_t c) { all = all && holds(c); });
  return make_bool(all);
}

/// islower, isupper: some character has this case, and none the other.
inline bool has_case(std::string_view text, bool upper) {
  bool some = false;
  bool other = false;
  for_each_point(text, [&](char32_t c) {
    some = some || (upper ? is_upper(c) : is_lower(c));
    other = other || (upper ? is_lower(c) : is_upper(c)) || category(c) == UTF8PROC_CATEGORY_LT;
  });
  return some && !other;
}

inline bool is_title_text(std::string_view text) {
  bool some = false;
  bool valid = true;
  bool in_word = false;
  for_each_point(text, [&](char32_t c) {
    const bool capital = is_upper(c) || category(c) == UTF8PROC_CATEGORY_LT;
    valid = valid && (!capital || !in_word) && (!is_lower(c) || in_word);
    in_word = is_cased(c);
    some = some || in_word;
  });
  return some && valid;
}

// --- Changing

inline std::string replaced(Run& run, std::string_view text, std::string_view old, std::string_view with,
                            std::int64_t most) {
  std::string out;
  std::size_t done = 0;
  if (old.empty()) {
    for (std::size_t at = 0; most != 0; --most) {
      out += with;
      if (at == text.size()) return out;
      done = at;
      decode(text, at);
      out += text.substr(done, at - done);
      done = at;
      run.check_length(out.size());
    }
    return out.append(text.substr(done));
  }
  for (std::size_t at = 0; most != 0 && (at = find_text(text, old, done)) != text.npos; --most) {
    out.append(text.substr(done, at - done)).append(with);
    done = at + old.size();
    run.check_length(out.size());
  }
  return out.append(text.substr(done));
}

inline std::string titled(std::string_view text) {
  std::string out;
  bool in_word = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const char32_t c = decode(text, at);
    if (in_word)
      append_lower_at(out, text, begin, at, c);
    else
      append_title(out, c);
    in_word = is_cased(c);
  }
  return out;
}

inline std::string capitalized(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const char32_t c = decode(text, at);
    if (begin == 0)
      append_title(out, c);
    else
      append_lower_at(out, text, begin, at, c);
  }
  return out;
}

inline std::string swapped_case(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const char32_t c = decode(text, at);
    if (is_upper(c))
      append_lower_at(out, text, begin, at, c);
    else if (is_lower(c))
      append_upper(out, c);
    else
      encode(out, c);
  }
  return out;
}

inline std::string case_folded(std::string_view text) {
  std::string out;
  for_each_point(text, [&](char32_t c) {
    for (const char32_t part : folded(c)) encode(out, part);
  });
  return out;
}

template <std::string (*change)(std::string_view)>
Value change_method(Run& run, const Value& self, const Arguments& arguments) {
  check_no_arguments("a change of case", arguments);
  return keep_like(run, self, change(self.text()));
}

inline Value replace_method(Run& run, const Value& self, const Arguments& arguments) {
  const auto [old, with, most] = bind<3>("replace", arguments, {"", "", ""}, 2);
  const std::string_view wanted = string_of(old, "the old text of replace");
  string_of(with, "the new text of replace");
  const std::string_view text = self.is_markup() ? escape(run, with).text() : with.text();
  return keep_like(run, self, replaced(run, self.text(), wanted, text, index_or(most, -1, "the count of replace")));
}

inline Value join_method(Run& run, const Value& self, const Arguments& arguments) {
  const Value items_in = bind<1>("join", arguments, {""}, 1)[0];
  std::string out;
  bool first = true;
  Value item;
  for (Iterator source = iterate(items_in); source.next(run, item); first = false) {
    if (!first) out += self.text();
    out += self.is_markup() ? escape(run, item).text() : string_of(item, "an element of join");
    run.check_length(out.size());
  }
  return keep_like(run, self, out);
}

template <char align>
Value pad_method(Run& run, const Value& self, const Arguments& arguments) {
  const auto [width, fill] = bind<2>("a method that pads", arguments, {"", ""}, 1);
  const std::string_view with = fill.is_missing() ? " " : string_of(fill, "the filling character");
  check(num_chars(with) == 1, "the filling character is '", with, "'; expected one character");
  const std::int64_t wanted = index_of(width, "a width");
  if constexpr (align == '^') {  // an odd space goes left if the width is odd, as in Python
    const std::int64_t room = wanted - static_cast<std::int64_t>(num_chars(self.text()));
    if (room <= 0) return self;
    const std::int64_t left = room / 2 + (room & wanted & 1);
    const std::string half = padded(self.text(), wanted - room + left, '>', with);
    return keep_like(run, self, padded(half, wanted, '<', with));
  }
  return keep_like(run, self, padded(self.text(), wanted, align, with));
}

inline Value zfill_method(Run& run, const Value& self, const Arguments& arguments) {
  const std::int64_t width = index_of(bind<1>("zfill", arguments, {""}, 1)[0], "the width of zfill");
  const std::size_t sign = self.text().starts_with('-') || self.text().starts_with('+') ? 1 : 0;
  const std::string digits = padded(self.text().substr(sign), width - static_cast<std::int64_t>(sign), '>', "0");
  return keep_like(run, self, concat(self.text().substr(0, sign), digits));
}

inline Value expandtabs_method(Run& run, const Value& self, const Arguments& arguments) {
  const std::int64_t size = index_or(bind<1>("expandtabs", arguments, {"tabsize"})[0], 8, "tabsize");
  std::string out;
  std::int64_t column = 0;
  for_each_point(self.text(), [&](char32_t c) {
    if (c != '\t') {
      encode(out, c);
      column = c == '\n' || c == '\r' ? 0 : column + 1;
    } else if (size > 0) {
      out = padded(out, 0, '<').append(padded("", size - column % size, '<'));
      column += size - column % size;
    }
    run.check_length(out.size());
  });
  return keep_like(run, self, out);
}

template <bool at_end>
Value remove_affix_method(Run&, const Value& self, const Arguments& arguments) {
  const std::string_view affix =
      string_of(bind<1>("removeprefix", arguments, {""}, 1)[0], "the argument of removeprefix");
  std::string_view text = self.text();
  if (at_end ? text.ends_with(affix) : text.starts_with(affix))
    text = at_end ? text.substr(0, text.size() - affix.size()) : text.substr(affix.size());
  return like(self, text);
}

template <char which>
Value unsupported_method(Run&, const Value&, const Arguments&) {
  fail("the method ",
       which == 'e'   ? "encode"
       : which == 't' ? "translate"
                      : "maketrans",
       " of a text is not supported");
}

inline constexpr Function string_methods[] = {
    {"capitalize", change_method<capitalized>},
    {"casefold", change_method<case_folded>},
    {"center", pad_method<'^'>},
    {"count", count_method},
    {"encode", unsupported_method<'e'>},
    {"endswith", starts_method<true>},
    {"expandtabs", expandtabs_method},
    {"find", find_method<false, false>},
    {"index", find_method<false, true>},
    {"isalnum", every_method<is_alnum>},
    {"isalpha", every_method<is_letter>},
    {"isascii",
     [](Run&, const Value& self, const Arguments& arguments) {
       check_no_arguments("isascii", arguments);
       return make_bool(is_ascii(self.text()));
     }},
    {"isdecimal", every_method<is_decimal>},
    {"isdigit", every_method<is_digit>},
    {"isidentifier",
     [](Run&, const Value& self, const Arguments& arguments) {
       check_no_arguments("isidentifier", arguments);
       bool first = true;
       bool all = self.size > 0;
       for_each_point(self.text(), [&](char32_t c) { all = is_identifier(c, std::exchange(first, false)) && all; });
       return make_bool(all);
     }},
    {"islower",
     [](Run&, const Value& self, const Arguments& arguments) {
       check_no_arguments("islower", arguments);
       return make_bool(has_case(self.text(), false));
     }},
    {"isnumeric", every_method<is_numeric>},
    {"isprintable",
     [](Run& run, const Value& self, const Arguments& arguments) {
       return self.size == 0 ? make_bool(true) : every_method<is_printable>(run, self, arguments);
     }},
    {"isspace", every_method<is_space>},
    {"istitle",
     [](Run&, const Value& self, const Arguments& arguments) {
       check_no_arguments("istitle", arguments);
       return make_bool(is_title_text(self.text()));
     }},
    {"isupper",
     [](Run&, const Value& self, const Arguments& arguments) {
       check_no_arguments("isupper", arguments);
       return make_bool(has_case(self.text(), true));
     }},
    {"join", join_method},
    {"ljust", pad_method<'<'>},
    {"lower", change_method<lower_text>},
    {"lstrip", strip_method<true, false>},
    {"maketrans", unsupported_method<'m'>},
    {"partition", partition_method<false>},
    {"removeprefix", remove_affix_method<false>},
    {"removesuffix", remove_affix_method<true>},
    {"replace", replace_method},
    {"rfind", find_method<true, false>},
    {"rindex", find_method<true, true>},
    {"rjust", pad_method<'>'>},
    {"rpartition", partition_method<true>},
    {"rsplit", split_method<true>},
    {"rstrip", strip_method<false, true>},
    {"split", split_method<false>},
    {"splitlines",
     [](Run& run, const Value& self, const Arguments& arguments) {
       const Value keep_ends = bind<1>("splitlines", arguments, {"keepends"})[0];
       return list_of(run, self, split_lines(self.text(), is_true(keep_ends)));
     }},
    {"startswith", starts_method<false>},
    {"strip", strip_method<true, true>},
    {"swapcase", change_method<swapped_case>},
    {"title", change_method<titled>},
    {"translate", unsupported_method<'t'>},
    {"upper", change_method<upper_text>},
    {"zfill", zfill_method},
};

}  // namespace kto::jinja
