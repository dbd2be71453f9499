// SPDX-License-Identifier: Apache-2.0
// CSV (RFC 4180) as rows: the first record names the columns, every cell is text, and label is true or false.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kto/data/detail/json_texts.hpp"
#include "kto/io/json.hpp"

namespace kto::detail {

struct CsvRecord {
  std::vector<std::string> cells;
  std::size_t line = 1;  ///< of its first byte, from 1
  std::string problem;   ///< why it is none; empty when all is well
};

/// Calls visit(CsvRecord) for each record; blank lines are none. Returns how many bytes are done: all where the piece
/// is the last one, else up to the last record's line break.
template <class Visit>
std::size_t split_csv(std::string_view content, bool is_last, TextPlace& place, const Visit& visit) {
  std::size_t at = 0;
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
          if (content[at] == '\n') ++line;
          cell += content[at];
        }
        at = std::min(at + 1, content.size());
      }
      const std::size_t end = std::min(content.find_first_of(",\n", at), content.size());
      if (end == content.size() && !is_last) return begin;  // once more, when there is more of it
      std::string_view rest = content.substr(at, end - at);
      if (end == content.size() || content[end] == '\n')
        while (rest.ends_with('\r')) rest.remove_suffix(1);
      if (quoted && !rest.empty()) record.problem = "text follows the closing quote of a cell";
      record.cells.push_back(cell.append(rest));
      ends = end == content.size() || content[end] == '\n';
      at = end + 1;
    }
    place.line = line + 1;
    if (record.cells.size() > 1 || !record.cells[0].empty()) visit(std::move(record));
  }
  return content.size();
}

/// A record as the row that a line of JSON would be. Throws Error when it has other cells than the header.
inline Json csv_row(const CsvRecord& header, CsvRecord record) {
  check(record.problem.empty(), record.problem);
  check(record.cells.size() == header.cells.size(), "has ", record.cells.size(), " cells, and the header ",
        header.cells.size(), "; put cells with commas or line breaks in double quotes");
  Json row = Json::object();
  for (std::size_t i = 0; i < record.cells.size(); ++i) {
    std::string& cell = record.cells[i];
    check(find_invalid_utf8(cell) == std::string_view::npos, "the cell ", header.cells[i], " is not UTF-8");
    const auto [place, is_first] = row.emplace(header.cells[i], std::move(cell));
    if (!is_first || header.cells[i] != "label") continue;  // of columns with one name the first counts, as in pandas
    Json& value = *place;
    for (const char* yes : {"true", "True", "TRUE", "1", "1.0"})
      if (value == yes) value = true;
    for (const char* no : {"false", "False", "FALSE", "0", "0.0"})
      if (value == no) value = false;
  }
  return row;
}

}  // namespace kto::detail
