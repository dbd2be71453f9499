// SPDX-License-Identifier: Apache-2.0
// Reads CSV (RFC 4180) as rows: the first record names the columns, every cell is text, and label is true or false.
// Records end with CRLF, LF or CR.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/data/detail/json_texts.hpp"
#include "kto/io/json.hpp"

namespace kto::detail {

struct CsvRecord {
  std::vector<std::string> cells;
  std::size_t line = 1;  ///< of its first byte, from 1
  std::string problem;   ///< why it is malformed; empty if it is not
};

/// Calls visit(CsvRecord) for each record, skipping blank lines. Returns how many bytes are consumed: all if the piece
/// is the last one, else up to the last record's line break.
template <class Visit>
std::size_t split_csv(std::string_view content, char separator, bool is_last, TextPlace& place, const Visit& visit) {
  const char ends_of_cell[] = {separator, '\n', '\r', '\0'};
  std::size_t at = 0;
  const auto is_line_end = [&](std::size_t i) {  // in CRLF, the LF
    return content[i] == '\n' || (content[i] == '\r' && (i + 1 == content.size() || content[i + 1] != '\n'));
  };
  while (at < content.size()) {
    const std::size_t begin = at;
    std::size_t line = place.line;
    CsvRecord record{.cells = {}, .line = line, .problem = {}};
    bool ends = false;
    while (!ends) {
      std::string cell;
      const bool quoted = at < content.size() && content[at] == '"';
      if (quoted) {
        for (++at;; ++at) {
          if (at >= content.size()) {
            record.problem = "a quoted cell that begins in this row does not end";
            break;
          }
          if (content[at] == '"' && at + 1 < content.size() && content[at + 1] == '"')
            ++at;
          else if (content[at] == '"')
            break;
          if (is_line_end(at)) ++line;
          cell += content[at];
        }
        at = std::min(at + 1, content.size());
      }
      const std::size_t end = std::min(content.find_first_of(ends_of_cell, at), content.size());
      const bool is_cr = end < content.size() && content[end] == '\r';
      if (!is_last && end + (is_cr ? 1 : 0) >= content.size()) return begin;  // read again when more is there
      const std::string_view rest = content.substr(at, end - at);
      if (quoted && !rest.empty()) record.problem = "text follows the closing quote of a cell";
      record.cells.push_back(cell.append(rest));
      ends = end == content.size() || content[end] != separator;
      at = end + (is_cr && !is_line_end(end) ? 2 : 1);
    }
    place.line = line + 1;
    if (record.cells.size() > 1 || !record.cells[0].empty()) visit(std::move(record));
  }
  return content.size();
}

/// The row of a record, as if it were a line of JSON. Throws Error if its cells do not match the header.
inline Json csv_row(const CsvRecord& header, CsvRecord record) {
  check(record.problem.empty(), record.problem);
  check(record.cells.size() == header.cells.size(), "has ", record.cells.size(), " cells, the header has ",
        header.cells.size(), "; put cells with commas or line breaks in double quotes");
  Json row = Json::object();
  for (std::size_t i = 0; i < record.cells.size(); ++i) {
    std::string& cell = record.cells[i];
    const std::string& name = header.cells[i];
    check(find_invalid_utf8(cell) == std::string_view::npos, "the cell ", shortened(name, 80), " is not UTF-8");
    const auto [place, is_first] = row.emplace(name, std::move(cell));
    if (!is_first || name != "label") continue;  // if columns share a name, the first wins, as in pandas
    Json& value = *place;
    for (const char* yes : {"true", "True", "TRUE", "1", "1.0"})
      if (value == yes) value = true;
    for (const char* no : {"false", "False", "FALSE", "0", "0.0"})
      if (value == no) value = false;
  }
  return row;
}

}  // namespace kto::detail
