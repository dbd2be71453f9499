// SPDX-License-Identifier: Apache-2.0
// Reads a data file piece by piece and finds the texts of its rows: lines of JSON, a sequence of JSON objects, elements
// of a JSON array, or records of CSV. Only one piece, or the longest row, is in memory at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "kto/data/detail/csv.hpp"
#include "kto/data/detail/data_formats.hpp"
#include "kto/data/detail/json_texts.hpp"
#include "kto/io/compressed.hpp"

namespace kto::detail {

/// The limit on the size of a row. Anything larger is a broken or hostile file, and parsing takes many times its size.
inline constexpr std::size_t max_row_bytes = 64 << 20;

inline constexpr std::size_t read_enough = SIZE_MAX;

/// Calls take(text, is_last), which returns how many bytes it consumed, until the end of the file or until it returns
/// read_enough. Unconsumed text is passed again, with more text appended. Calls note(share) with the share of the file
/// that is done, from 0 to 1. Throws Error if a row is too large.
template <class Take, class Note>
void read_in_pieces(const fs::path& path, const Take& take, const Note& note) {
  const auto read = [&](auto file) {
    constexpr std::size_t piece = 1 << 20;
    std::string held;
    bool last = false;
    for (std::size_t wanted = piece; !last;) {
      while (!last && held.size() < wanted) last = !file.read(held, wanted - held.size());
      const std::size_t done = take(std::string_view(held), last);
      if (done == read_enough) return;
      check(done > 0 || last || wanted <= max_row_bytes, path.string(), ": holds a row of more than ",
            max_row_bytes >> 20, " MiB", is_compressed(path) ? " when unpacked" : "");
      wanted = done > 0 ? piece : 2 * wanted;
      held.erase(0, done);
      note(file.share());
    }
  };
  if (is_compressed(path)) return read(CompressedFile(path));
  read(FileReader(path));
}

/// Finds the rows in the pieces of a file.
class RowTexts {
 public:
  RowTexts(const fs::path& path, DataFormat format)
      : where_(path.string()),
        kind_(format == DataFormat::csv || format == DataFormat::tsv ? Kind::csv : Kind::unknown),
        separator_(format == DataFormat::tsv ? '\t' : ',') {}

  /// Whether rows end at their brackets instead of at line ends.
  bool has_brackets() const { return kind_ == Kind::array || kind_ == Kind::objects; }

  /// Calls json(JsonText) or csv(CsvRecord) for each complete row in `text`; returns how many bytes are consumed.
  /// Throws Error if the file is not a list of rows.
  template <class VisitJson, class VisitCsv>
  std::size_t operator()(std::string_view text, bool is_last, const VisitJson& json, const VisitCsv& csv) {
    std::size_t mark = 0;
    if (!begun_) {
      check(text.substr(0, 2) != "\xFF\xFE" && text.substr(0, 2) != "\xFE\xFF", where_,
            ": line 1, byte 1: UTF-16; save the file as UTF-8, for example with iconv -f UTF-16 -t UTF-8");
      if (text.substr(0, 3) == "\xEF\xBB\xBF") mark = 3;
      if (kind_ == Kind::unknown) kind_ = kind_of(text.substr(mark), is_last);
      if (kind_ == Kind::unknown) return is_last ? text.size() : 0;
      begun_ = true;
    }
    const std::string_view content = text.substr(mark);
    if (kind_ == Kind::csv) return mark + split_csv(content, separator_, is_last, place_, csv);
    if (kind_ == Kind::lines) return mark + split_lines(content, is_last, place_, json);
    if (kind_ == Kind::objects) return mark + split_objects(content, is_last, place_, where_, json);
    return mark + split_array(content, is_last, place_, where_, json);
  }

 private:
  enum class Kind { unknown, lines, objects, array, csv };

  /// Detects the layout of a JSON file from its beginning; unknown until there is a whole line that is not blank. If
  /// the first object spans lines or shares its line with another, objects are split by their brackets.
  static Kind kind_of(std::string_view content, bool is_last) {
    const std::size_t first = content.find_first_not_of(json_spaces);
    if (first == std::string_view::npos) return Kind::unknown;
    if (content[first] == '[') return Kind::array;
    const std::size_t end = content.find('\n', first);
    if (end == std::string_view::npos && !is_last) return Kind::unknown;
    const std::string_view line = content.substr(first, end - first);
    if (line[0] != '{') return Kind::lines;
    TextPlace place;
    TextCursor cursor{.content = line, .place = place, .where = {}};
    if (!cursor.pass_value(false, false, {})) return cursor.in_string ? Kind::lines : Kind::objects;
    cursor.skip_spaces();
    return !cursor.ends() && line[cursor.at] == '{' ? Kind::objects : Kind::lines;
  }

  std::string where_;
  Kind kind_;
  char separator_;
  bool begun_ = false;  ///< past a byte-order mark
  TextPlace place_;
};

}  // namespace kto::detail
