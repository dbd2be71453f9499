// SPDX-License-Identifier: Apache-2.0
// String methods that search: startswith, endswith, find, index, count.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "kto/text/jinja/arguments.hpp"
#include "kto/text/jinja/iterate.hpp"

namespace kto::jinja {

/// text[start:end] and the index of its first character; empty if start is past the end of the text.
struct Window {
  bool valid;
  std::string_view text;
  std::int64_t start;
};

inline Window window(std::string_view text, const Value& start, const Value& end) {
  if (start.is_missing() && end.is_missing()) return {true, text, 0};
  const auto length = static_cast<std::int64_t>(num_chars(text));
  const auto bound = [&](const Value& value, std::int64_t otherwise) {
    if (value.is_missing() || value.is(Kind::none)) return otherwise;
    const std::int64_t index = index_of(value, "a bound in a string");
    return index < 0 ? std::max<std::int64_t>(index + length, 0) : index;
  };
  const std::int64_t from = bound(start, 0);
  const std::int64_t to = std::min(bound(end, length), length);
  if (from > length || to < from) return {false, {}, 0};
  const std::string_view rest = text.substr(char_offset(text, static_cast<std::size_t>(from)));
  return {true, rest.substr(0, char_offset(rest, static_cast<std::size_t>(to - from))), from};
}

template <bool at_end>
Value starts_method(Run&, const Value& self, const Arguments& arguments) {
  const auto [wanted, start, end] = bind<3>(at_end ? "endswith" : "startswith", arguments, {"", "", ""}, 1);
  const Window part = window(self.text(), start, end);
  const auto fits = [&](const Value& affix) {
    const std::string_view text = string_of(affix, at_end ? "the argument of endswith" : "the argument of startswith");
    return part.valid && (at_end ? part.text.ends_with(text) : part.text.starts_with(text));
  };
  if (!wanted.is(Kind::tuple)) return make_bool(fits(wanted));
  for (const Value& affix : wanted.list())
    if (fits(affix)) return make_bool(true);
  return make_bool(false);
}

template <bool from_right, bool must_find>
Value find_method(Run&, const Value& self, const Arguments& arguments) {
  const auto [wanted, start, end] = bind<3>("find", arguments, {"", "", ""}, 1);
  const std::string_view text = string_of(wanted, "the text to find");
  const Window part = window(self.text(), start, end);
  const std::size_t at = !part.valid  ? part.text.npos
                         : from_right ? rfind_text(part.text, text)
                                      : find_text(part.text, text);
  if (at != part.text.npos) return make_int(part.start + static_cast<std::int64_t>(num_chars(part.text.substr(0, at))));
  check(!must_find, "index: the string does not contain the text");
  return make_int(-1);
}

inline Value count_method(Run&, const Value& self, const Arguments& arguments) {
  const auto [wanted, start, end] = bind<3>("count", arguments, {"", "", ""}, 1);
  const std::string_view text = string_of(wanted, "the text to count");
  const Window part = window(self.text(), start, end);
  if (!part.valid) return make_int(0);
  if (text.empty()) return make_size(num_chars(part.text) + 1);
  std::int64_t count = 0;
  for (std::size_t at = 0; (at = find_text(part.text, text, at)) != part.text.npos; at += text.size()) ++count;
  return make_int(count);
}

}  // namespace kto::jinja
