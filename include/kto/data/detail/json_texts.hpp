// SPDX-License-Identifier: Apache-2.0
// Splits a data file into the JSON texts of its rows, so that each is parsed, and complained about, on its own.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

#include "kto/data/detail/utf8.hpp"
#include "kto/io/json.hpp"

namespace kto::detail {

/// One row's text and the place of its first byte in the file, counted from 1.
struct JsonText {
  std::string_view text;
  std::size_t line = 1;
  std::size_t column = 1;
};

inline constexpr std::string_view json_spaces = " \t\r\n";
inline bool is_json_space(char c) { return json_spaces.find(c) != std::string_view::npos; }

/// Where in its file a piece of text begins, from piece to piece.
struct TextPlace {
  std::size_t line = 1;
  std::ptrdiff_t line_start = 0;  ///< from the piece's begin
  enum { before, first, element, after } in_array = before;
};

/// Calls visit(JsonText) for each line that is not blank. Returns how many bytes are done: all where the piece is the
/// last one, else up to the last line break.
template <class Visit>
std::size_t split_lines(std::string_view content, bool is_last, TextPlace& place, const Visit& visit) {
  std::size_t begin = 0;
  for (; begin < content.size(); ++place.line) {
    const std::size_t end = std::min(content.find('\n', begin), content.size());
    if (end == content.size() && !is_last) break;
    const std::string_view text = content.substr(begin, end - begin);
    const std::size_t start = text.find_first_not_of(json_spaces);
    if (start != std::string_view::npos) visit(JsonText{text.substr(start), place.line, start + 1});
    begin = std::min(end + 1, content.size());
  }
  return begin;
}

/// Calls visit(JsonText) for each element of the array that a file is. Returns how many bytes are done: all where the
/// piece is the last one, else up to the last element's comma. Throws Error when the array itself is broken; what
/// stands in an element is the visitor's business.
template <class Visit>
std::size_t split_array(std::string_view content, bool is_last, TextPlace& place, std::string_view where,
                        const Visit& visit) {
  std::size_t at = 0;
  const auto step = [&] {
    if (content[at++] != '\n') return;
    ++place.line;
    place.line_start = static_cast<std::ptrdiff_t>(at);
  };
  const auto column = [&] { return static_cast<std::size_t>(static_cast<std::ptrdiff_t>(at) - place.line_start + 1); };
  const auto here = [&] { return concat(where, ": line ", place.line, ", column ", column(), ": "); };
  const auto done = [&] {
    place.line_start -= static_cast<std::ptrdiff_t>(at);
    return at;
  };
  for (;;) {
    while (at < content.size() && is_json_space(content[at])) step();
    const bool ends = at == content.size();
    if (ends && (!is_last || place.in_array == TextPlace::after)) return done();
    if (place.in_array == TextPlace::before) {
      step();  // the opening bracket
      place.in_array = TextPlace::first;
      continue;
    }
    check(place.in_array != TextPlace::after, here(), "expected nothing after the array of rows");
    if (place.in_array == TextPlace::first && !ends && content[at] == ']') {
      step();
      place.in_array = TextPlace::after;
      continue;
    }
    const TextPlace start = place;
    const JsonText begins{{}, place.line, column()};
    const std::size_t begin = at;
    bool in_string = false;
    for (int depth = 0; at < content.size(); step()) {
      const char c = content[at];
      if (in_string) {
        if (c == '\\' && at + 1 < content.size()) step();
        if (c == '"') in_string = false;
      } else if (c == '"') {
        in_string = true;
      } else if (c == '{' || c == '[') {
        ++depth;
      } else if (depth == 0 && (c == ',' || c == ']')) {
        break;
      } else if (c == '}' || c == ']') {
        --depth;
      }
    }
    if (at == content.size() && !is_last) {  // once more, when there is more of it
      place = start, at = begin;
      return done();
    }
    check(at < content.size(), where, ": line ", begins.line, ", column ", begins.column,
          ": the row that begins here does not end, or the closing ] of the array is missing (is the file cut off?)");
    std::size_t end = at;
    while (end > begin && is_json_space(content[end - 1])) --end;
    check(end > begin, here(), "expected a row before this \"", content[at], "\"");
    visit(JsonText{content.substr(begin, end - begin), begins.line, begins.column});
    place.in_array = content[at] == ',' ? TextPlace::element : TextPlace::after;
    step();
  }
}

/// Parses one row. Throws Error that opens with `file`, line and column when it is not UTF-8, nested absurdly deep (a
/// parsed value is walked recursively), or not JSON.
inline Json parse_row(const JsonText& row, std::string_view file) {
  const auto place = [&](std::size_t at) {
    const auto before = row.text.substr(0, at);
    const auto lines = static_cast<std::size_t>(std::count(before.begin(), before.end(), '\n'));
    const std::size_t start = before.rfind('\n') + 1;  // npos + 1 == 0
    return concat(file, ": line ", row.line + lines, ", byte ", at - start + (lines == 0 ? row.column : 1), ": ");
  };
  if (const std::size_t bad = find_invalid_utf8(row.text); bad != std::string_view::npos) {
    constexpr std::string_view digits = "0123456789ABCDEF";
    const auto byte = static_cast<unsigned char>(row.text[bad]);
    fail(place(bad), "not UTF-8 (byte 0x", digits[byte >> 4U], digits[byte & 15U],
         "); save the file as UTF-8, for example with iconv -f LATIN1 -t UTF-8");
  }
  if (const std::size_t deep = find_too_deep(row.text); deep != std::string_view::npos)
    fail(place(deep), "lists and objects are nested more than ", max_json_depth, " deep");
  constexpr std::size_t max_padding = 1 << 20;  // spaces put the row at its column for the message
  try {
    return Json::parse(row.text.begin(), row.text.end());
  } catch (const Json::exception&) {
    return parse_json(std::string(std::min(row.column - 1, max_padding), ' ') + std::string(row.text), file, row.line);
  }
}

}  // namespace kto::detail
