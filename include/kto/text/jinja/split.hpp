// SPDX-License-Identifier: Apache-2.0
// String methods that split: split, splitlines, partition, strip. A string marked safe gives strings marked safe.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <vector>

#include "kto/text/jinja/arguments.hpp"
#include "kto/text/jinja/iterate.hpp"

namespace kto::jinja {

inline Value like(const Value& self, std::string_view text) { return make_text(text, self.flag); }
inline Value keep_like(Run& run, const Value& self, std::string_view text) { return keep_text(run, text, self.flag); }

inline std::vector<std::string_view> split_space(std::string_view text, std::int64_t most) {
  std::vector<std::string_view> parts;
  for (;;) {
    text = strip(text, is_space, true, false);
    if (text.empty()) return parts;
    if (most >= 0 && static_cast<std::int64_t>(parts.size()) == most) break;
    std::size_t end = 0;
    for (std::size_t at = 0; at < text.size(); end = at)
      if (is_space(decode(text, at))) break;
    parts.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  parts.push_back(text);
  return parts;
}

inline std::vector<std::string_view> rsplit_space(std::string_view text, std::int64_t most) {
  std::vector<std::string_view> parts;
  for (;;) {
    text = strip(text, is_space, false, true);
    if (text.empty()) break;
    if (most >= 0 && static_cast<std::int64_t>(parts.size()) == most) {
      parts.push_back(text);
      break;
    }
    std::size_t begin = text.size();
    while (begin > 0) {
      const std::size_t before = char_before(text, begin);
      std::size_t at = before;
      if (is_space(decode(text, at))) break;
      begin = before;
    }
    parts.push_back(text.substr(begin));
    text = text.substr(0, begin);
  }
  std::ranges::reverse(parts);
  return parts;
}

inline std::vector<std::string_view> split_at(std::string_view text, std::string_view separator, std::int64_t most,
                                              bool from_right) {
  check(!separator.empty(), "split: the separator is empty");
  const std::string backwards(from_right ? text.rbegin() : text.rend(), text.rend());
  const std::string mark(separator.rbegin(), separator.rend());
  std::vector<std::string_view> parts;
  std::size_t done = 0;  // from the end that is split first
  const auto part = [&](std::size_t end) {
    return from_right ? text.substr(text.size() - end, end - done) : text.substr(done, end - done);
  };
  while (most < 0 || static_cast<std::int64_t>(parts.size()) < most) {
    const std::size_t at = from_right ? find_text(backwards, mark, done) : find_text(text, separator, done);
    if (at == text.npos) break;
    parts.push_back(part(at));
    done = at + separator.size();
  }
  parts.push_back(part(text.size()));
  if (from_right) std::ranges::reverse(parts);
  return parts;
}

inline Value list_of(Run& run, const Value& self, const std::vector<std::string_view>& parts) {
  run.step(static_cast<std::int64_t>(parts.size()));
  const auto list = run.arena.array<Value>(parts.size());
  for (std::size_t i = 0; i < parts.size(); ++i) list[i] = like(self, parts[i]);
  return make_list(list);
}

template <bool from_right>
Value split_method(Run& run, const Value& self, const Arguments& arguments) {
  const auto [separator, most] = bind<2>("split", arguments, {"sep", "maxsplit"});
  const std::int64_t limit = index_or(most, -1, "maxsplit");
  if (separator.is_missing() || separator.is(Kind::none))
    return list_of(run, self, from_right ? rsplit_space(self.text(), limit) : split_space(self.text(), limit));
  return list_of(run, self, split_at(self.text(), string_of(separator, "the separator of split"), limit, from_right));
}

inline std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends = false) {
  std::vector<std::string_view> lines;
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = at;
    const char32_t c = decode(text, at);
    if (!is_line_break(c)) continue;
    if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
    lines.push_back(text.substr(begin, (keep_ends ? at : end) - begin));
    begin = at;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

template <bool from_right>
Value partition_method(Run& run, const Value& self, const Arguments& arguments) {
  const std::string_view separator = string_of(bind<1>("partition", arguments, {""}, 1)[0], "the separator");
  check(!separator.empty(), "partition: the separator is empty");
  const std::string_view text = self.text();
  const std::size_t at = from_right ? rfind_text(text, separator) : find_text(text, separator);
  const auto parts = run.arena.array<Value>(3);
  const bool found = at != text.npos;
  parts[0] = like(self, found ? text.substr(0, at) : from_right ? "" : text);
  parts[1] = like(self, found ? separator : "");
  parts[2] = like(self, found ? text.substr(at + separator.size()) : from_right ? text : "");
  return tuple_of(parts);
}

template <bool left, bool right>
Value strip_method(Run& run, const Value& self, const Arguments& arguments) {
  const Value chars = bind<1>("strip", arguments, {""})[0];
  if (chars.is_missing() || chars.is(Kind::none)) return like(self, strip(self.text(), is_space, left, right));
  const std::string_view drop = string_of(chars, "the argument of strip");
  const auto dropped = [&](char32_t c) {
    run.read(4 * drop.size());
    for (std::size_t at = 0; at < drop.size();)
      if (decode(drop, at) == c) return true;
    return false;
  };
  return like(self, strip(self.text(), dropped, left, right));
}

}  // namespace kto::jinja
