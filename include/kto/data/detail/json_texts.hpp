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

/// Calls visit(JsonText) for each line that is not blank.
template <class Visit>
void split_lines(std::string_view content, const Visit& visit) {
  for (std::size_t begin = 0, line = 1; begin < content.size(); ++line) {
    const std::size_t end = std::min(content.find('\n', begin), content.size());
    const std::string_view text = content.substr(begin, end - begin);
    const std::size_t first = text.find_first_not_of(json_spaces);
    if (first != std::string_view::npos) visit(JsonText{text.substr(first), line, first + 1});
    begin = end + 1;
  }
}

/// Calls visit(JsonText) for each element of the array that `content` is. Throws Error when the array itself is broken;
/// what stands in an element is the visitor's business.
template <class Visit>
void split_array(std::string_view content, std::string_view where, const Visit& visit) {
  std::size_t at = 0, line = 1, line_start = 0;
  const auto step = [&] {
    if (content[at++] == '\n') {
      ++line;
      line_start = at;
    }
  };
  const auto skip_space = [&] {
    while (at < content.size() && is_json_space(content[at])) step();
  };
  const auto place = [&] { return concat(where, ": line ", line, ", column ", at - line_start + 1, ": "); };

  skip_space();
  step();  // the opening bracket
  skip_space();
  bool more = at >= content.size() || content[at] != ']';
  while (more) {
    const JsonText start{{}, line, at - line_start + 1};
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
    check(at < content.size(), where, ": line ", start.line, ", column ", start.column,
          ": the row that begins here does not end, or the closing ] of the array is missing (is the file cut off?)");
    std::size_t end = at;
    while (end > begin && is_json_space(content[end - 1])) --end;
    check(end > begin, place(), "expected a row before this \"", content[at], "\"");
    visit(JsonText{content.substr(begin, end - begin), start.line, start.column});
    more = content[at] == ',';
    if (more) step();
    if (more) skip_space();
  }
  step();  // the closing bracket
  skip_space();
  check(at == content.size(), place(), "expected nothing after the array of rows");
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
