// SPDX-License-Identifier: Apache-2.0
// Reads a data set: JSON Lines, JSON arrays or CSV, compressed or not, of TRL's unpaired or paired preference rows,
// checked one by one. All that is wrong is told in one Error before anything is trained on. Flow: files -> here ->
// encode.
#pragma once

#include <optional>
#include <range/v3/range/conversion.hpp>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/data/detail/columns.hpp"
#include "kto/data/detail/csv.hpp"
#include "kto/data/detail/json_texts.hpp"
#include "kto/data/detail/problems.hpp"
#include "kto/data/files.hpp"
#include "kto/data/unpair.hpp"

namespace kto {

namespace detail {

/// Takes the rows of all files in turn. The first row that has a known format sets that of the data set.
class RowReader {
 public:
  void read(const fs::path& path) {
    files_.push_back(path.string());
    std::optional<MappedFile> file;
    std::string unpacked;
    if (is_compressed(path))
      unpacked = read_compressed(path);
    else
      file.emplace(path);
    std::string_view content = file ? file->bytes() : unpacked;
    check(content.substr(0, 2) != "\xFF\xFE" && content.substr(0, 2) != "\xFE\xFF", path.string(),
          ": line 1, byte 1: UTF-16; save the file as UTF-8, for example with iconv -f UTF-16 -t UTF-8");
    if (content.substr(0, 3) == "\xEF\xBB\xBF") content.remove_prefix(3);
    if ((is_compressed(path) ? path.stem() : path).extension() == ".csv") return read_csv(content);
    const auto take_row = [this](const JsonText& text) { take(text); };
    const std::size_t first = content.find_first_not_of(json_spaces);
    if (first == std::string_view::npos) return;
    if (content[first] != '[') {
      const std::string_view line = content.substr(first, content.find('\n', first) - first);
      check(std::string_view("{[,:").find(line[line.find_last_not_of(json_spaces)]) == std::string_view::npos,
            path.string(),
            ": line 1: a JSON value that goes on over several lines; expected one row a line, or an array "
            "[...] of rows");
      return split_lines(content, take_row);
    }
    try {
      split_array(content, path.string(), take_row);
    } catch (const Error& error) {
      problems_.add(++number_, error.what());
    }
  }

  RowSet finish(std::string_view where) && {
    problems_.raise(concat("malformed rows of ", number_, " in ", where));
    check(number_ > 0, where, ": no rows; expected one JSON object a line, with prompt, completion and label");
    RowSet set{.rows = std::move(rows_), .kind = *kind_, .files = std::move(files_), .notes = {}};
    if (kind_->format != RowFormat::Unpaired) set.rows = unpair(pairs_) | ranges::to<std::vector>();
    if (prompt_column_unused_)
      set.notes.push_back(
          "\"prompt\" is plain text while chosen and rejected are conversations: the prompt is taken from the messages "
          "that both begin with, and the column is not used");
    std::string unused;
    for (const auto& column : unused_columns_) unused += (unused.empty() ? "" : ", ") + column;
    if (!unused.empty()) set.notes.push_back("columns that are not used: " + unused);
    return set;
  }

 private:
  void read_csv(std::string_view content) {
    std::optional<CsvRecord> header;
    split_csv(content, [&](CsvRecord record) {
      if (!header) return void(header = std::move(record));
      const RowSource source{.number = ++number_, .file = files_.size() - 1, .line = record.line};
      try {
        take(csv_row(*header, std::move(record)), source);
      } catch (const Error& error) {
        problems_.add(source.number, concat(files_.back(), ": line ", source.line, ": ", error.what()));
      }
    });
  }

  void take(const JsonText& text) {
    const RowSource source{.number = ++number_, .file = files_.size() - 1, .line = text.line};
    Json row;
    try {
      row = parse_row(text, files_.back());
    } catch (const Error& error) {
      return problems_.add(source.number, error.what());
    }
    try {
      take(std::move(row), source);
    } catch (const Error& error) {
      problems_.add(source.number, concat(files_.back(), ": line ", source.line, ": ", error.what()));
    }
  }

  void take(Json row, RowSource source) {
    const RowKind kind = check_columns(row);
    if (!kind_) {
      kind_ = kind;
      kind_from_ = concat(files_.back(), ": line ", source.line);
    }
    check(kind == *kind_, "expected ", describe(*kind_), ", as ", kind_from_, " has; this row is of the kind ",
          describe(kind));
    RowContext context{.prompt = {},
                       .tools = check_tools(row),
                       .chat_template_kwargs = check_template_variables(row),
                       .source = source};
    if (kind.format != RowFormat::ImplicitPrompt) context.prompt = std::move(row["prompt"]);
    if (kind.format == RowFormat::Unpaired) {
      rows_.push_back({std::move(context), std::move(row["completion"]), row["label"].get<bool>()});
    } else {
      Pair pair{std::move(context), std::move(row["chosen"]), std::move(row["rejected"])};
      if (kind.format == RowFormat::ImplicitPrompt) extract_prompt(pair);
      pairs_.push_back(std::move(pair));
    }
    note_unused(row, kind);
  }

  void note_unused(const Json& row, RowKind kind) {
    static const std::set<std::string> used{"prompt", "completion", "label", "chosen", "rejected"};
    static const std::set<std::string> for_templates{"tools", "chat_template_kwargs"};
    if (kind.format == RowFormat::ImplicitPrompt && find_value(row, "prompt")) prompt_column_unused_ = true;
    for (const auto& [key, value] : row.items())
      if (!value.is_null() && !used.contains(key) && !(kind.conversational && for_templates.contains(key)))
        unused_columns_.insert(key);
  }

  std::vector<std::string> files_;
  std::vector<Row> rows_;
  std::vector<Pair> pairs_;
  std::optional<RowKind> kind_;
  std::string kind_from_;
  std::size_t number_ = 0;
  Problems problems_;
  std::set<std::string> unused_columns_;
  bool prompt_column_unused_ = false;
};

}  // namespace detail

/// Reads `split` of the data set at `path` (see data_files) into the trainer's order: the rows as they stand, or of
/// each thousand pairs the chosen rows and then the rejected ones. A byte-order mark, blank lines and CRLF are fine.
/// Throws one Error for all malformed rows: file, line, column or key, and what was expected; the first ten in full.
inline RowSet read_rows(const fs::path& path, std::string_view split = "train") {
  detail::RowReader reader;
  const auto files = data_files(path, split);
  for (const auto& file : files) reader.read(file);
  return std::move(reader).finish(files.size() == 1 ? files.front().string() : path.string());
}

}  // namespace kto
