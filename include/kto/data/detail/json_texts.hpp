// SPDX-License-Identifier: Apache-2.0
// Splits a data file into the JSON texts of its rows, so that each row is parsed, and reported, on its own.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "kto/core/utf8.hpp"
#include "kto/io/json.hpp"

namespace kto::detail {

/// One row's text and the position of its first byte in the file, counted from 1.
struct JsonText {
  std::string_view text;
  std::size_t line = 1;
  std::size_t column = 1;
};

inline constexpr std::string_view json_spaces = " \t\r\n";
inline bool is_json_space(char c) { return json_spaces.find(c) != std::string_view::npos; }

/// The position in the file at which the current piece of text begins.
struct TextPlace {
  std::size_t line = 1;
  std::ptrdiff_t line_start = 0;  ///< relative to the beginning of the piece
  enum { before, first, element, after } in_array = before;
};

/// Calls visit(JsonText) for each non-blank line. Returns how many bytes are consumed: all if the piece is the last
/// one, else up to the last line break.
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

/// Walks through a piece of text and tracks the position in the file.
struct TextCursor {
  std::string_view content;
  TextPlace& place;
  std::string_view where;
  std::size_t at = 0;
  bool in_string = false;  ///< when pass_value found no end

  bool ends() const { return at == content.size(); }
  void step() {
    if (content[at++] != '\n') return;
    ++place.line;
    place.line_start = static_cast<std::ptrdiff_t>(at);
  }
  void skip_spaces() {
    while (!ends() && is_json_space(content[at])) step();
  }
  std::size_t column() const {
    return static_cast<std::size_t>(static_cast<std::ptrdiff_t>(at) - place.line_start + 1);
  }
  std::string here() const { return concat(where, ": line ", place.line, ", column ", column(), ": "); }
  /// How many bytes are consumed: the return value of split_...
  std::size_t done() const {
    place.line_start -= static_cast<std::ptrdiff_t>(at);
    return at;
  }

  /// Moves to the end of the value that begins here: after its closing bracket, or to the comma or bracket that ends it
  /// in an array. If the end is in the next piece, does not move and returns false. Throws Error, ending with
  /// `otherwise`, if there is no end.
  bool pass_value(bool is_last, bool in_array, std::string_view otherwise) {
    const TextPlace start = place;
    const std::size_t begin = at, first_column = column();
    in_string = false;
    for (int depth = 0; !ends(); step()) {
      const char c = content[at];
      if (in_string) {
        if (c == '\\' && at + 1 < content.size()) step();
        if (c == '"') in_string = false;
      } else if (c == '"') {
        in_string = true;
      } else if (c == '{' || c == '[') {
        ++depth;
      } else if (in_array && depth == 0 && (c == ',' || c == ']')) {
        return true;
      } else if ((c == '}' || c == ']') && --depth == 0 && !in_array) {
        step();
        return true;
      }
    }
    check(!is_last, where, ": line ", start.line, ", column ", first_column, ": the row that begins here does not end",
          otherwise, " (is the file cut off?)");
    place = start;
    at = begin;
    return false;
  }
};

/// Calls visit(JsonText) for each object in a sequence of objects, which may span lines. Returns how many bytes are
/// consumed: all if the piece is the last one, else up to the last object's end. Throws Error if it finds anything
/// else.
template <class Visit>
std::size_t split_objects(std::string_view content, bool is_last, TextPlace& place, std::string_view where,
                          const Visit& visit) {
  TextCursor cursor{.content = content, .place = place, .where = where};
  for (;;) {
    cursor.skip_spaces();
    if (cursor.ends()) return cursor.done();
    check(content[cursor.at] == '{', cursor.here(), "expected the { of a row");
    const JsonText begins{{}, place.line, cursor.column()};
    const std::size_t begin = cursor.at;
    if (!cursor.pass_value(is_last, false, "")) return cursor.done();
    visit(JsonText{content.substr(begin, cursor.at - begin), begins.line, begins.column});
  }
}

/// Calls visit(JsonText) for each element of a file that is an array. Returns how many bytes are consumed: all if the
/// piece is the last one, else up to the last element's comma. Throws Error if the array itself is broken; the visitor
/// checks the elements.
template <class Visit>
std::size_t split_array(std::string_view content, bool is_last, TextPlace& place, std::string_view where,
                        const Visit& visit) {
  TextCursor cursor{.content = content, .place = place, .where = where};
  for (;;) {
    cursor.skip_spaces();
    if (cursor.ends() && (!is_last || place.in_array == TextPlace::after)) return cursor.done();
    if (place.in_array == TextPlace::before) {
      cursor.step();  // the opening bracket
      place.in_array = TextPlace::first;
      continue;
    }
    check(place.in_array != TextPlace::after, cursor.here(), "expected nothing after the array of rows");
    if (place.in_array == TextPlace::first && !cursor.ends() && content[cursor.at] == ']') {
      cursor.step();
      place.in_array = TextPlace::after;
      continue;
    }
    const JsonText begins{{}, place.line, cursor.column()};
    const std::size_t begin = cursor.at;
    if (!cursor.pass_value(is_last, true, ", or the closing ] of the array is missing")) return cursor.done();
    std::size_t end = cursor.at;
    while (end > begin && is_json_space(content[end - 1])) --end;
    check(end > begin, cursor.here(), "expected a row before this \"", content[cursor.at], "\"");
    visit(JsonText{content.substr(begin, end - begin), begins.line, begins.column});
    place.in_array = content[cursor.at] == ',' ? TextPlace::element : TextPlace::after;
    cursor.step();
  }
}

/// `text` with each NaN, Infinity and -Infinity replaced by `digit` and padded with spaces; empty if it has none. They
/// are not JSON, but Python's json writes them.
inline std::optional<std::string> without_nonfinite(std::string_view text, char digit) {
  std::optional<std::string> out;
  bool in_string = false;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (in_string && c == '\\') ++at;
    if (c == '"') in_string = !in_string;
    if (in_string || (c != 'N' && c != 'I' && c != '-')) continue;
    for (const std::string_view word : {"NaN", "Infinity", "-Infinity"}) {
      const std::size_t end = at + word.size();
      const auto stands_by = [&](std::size_t i, std::string_view others) {
        return i >= text.size() || is_json_space(text[i]) || others.find(text[i]) < SIZE_MAX;
      };
      if (text.substr(at, word.size()) != word || !stands_by(at - 1, ",:[") || !stands_by(end, ",]}")) continue;
      if (!out) out.emplace(text);
      std::fill_n(out->begin() + static_cast<std::ptrdiff_t>(at), word.size(), ' ');
      (*out)[at] = digit;
    }
  }
  return out;
}

/// Where two values that differ only in numbers first differ: "", "[0].score".
inline std::string first_difference(const Json& a, const Json& b) {
  if (a.is_structured() && a.size() == b.size())
    for (auto i = a.begin(), j = b.begin(); i != a.end(); ++i, ++j)
      if (*i != *j) {
        const std::string step = a.is_object() ? "." + i.key() : concat('[', i - a.begin(), ']');
        return step + first_difference(*i, *j);
      }
  return {};
}

/// A row, and for each column where it holds NaN or an infinity (the row has a 0 there).
struct ParsedRow {
  Json row;
  std::map<std::string, std::string> nonfinite = {};
};

/// Parses one row. Throws Error starting with `file`, line and column if it is not UTF-8, too deeply nested (parsed
/// values are walked recursively), or not JSON.
inline ParsedRow parse_row(const JsonText& row, std::string_view file) {
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
  constexpr std::size_t max_padding = 1 << 20;  // spaces shift the row to its column, for the message
  const auto parse = [&](std::string_view text) {
    return parse_json(std::string(std::min(row.column - 1, max_padding), ' ').append(text), file, row.line);
  };
  try {
    return {Json::parse(row.text.begin(), row.text.end())};
  } catch (const Json::exception&) {
    const auto zeros = without_nonfinite(row.text, '0');
    if (!zeros) return {parse(row.text)};
    ParsedRow out{parse(*zeros)};
    const Json ones = parse(*without_nonfinite(row.text, '1'));
    if (out.row.is_object())
      for (const auto& [key, value] : out.row.items())
        if (value != ones[key]) out.nonfinite[key] = first_difference(value, ones[key]);
    return out;
  }
}

}  // namespace kto::detail
