// SPDX-License-Identifier: Apache-2.0
// Takes rows out of files, checks them one by one, and hands them on in blocks, so that no more of a data set need be
// in memory than its reader wants.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/data/detail/columns.hpp"
#include "kto/data/detail/problems.hpp"
#include "kto/data/detail/row_texts.hpp"
#include "kto/data/detail/token_rows.hpp"
#include "kto/data/files.hpp"
#include "kto/data/unpair.hpp"

namespace kto::detail {

/// Calls its last argument for each row of a Parquet file, with what is read so far of it (0 to 1), until that returns
/// false. Of a column that is not used it only says whether there is something. Null in a program that does not include
/// kto/data/parquet.hpp.
using ParquetReader = void (*)(const fs::path&, const std::function<bool(const std::string& column)>& is_used,
                               const std::function<bool(Json row, double share)>&);
inline ParquetReader parquet_reader = nullptr;

inline void read_parquet(const fs::path& path, const std::function<bool(const std::string&)>& is_used,
                         const std::function<bool(Json, double)>& visit) {
  check(parquet_reader != nullptr, path.string(),
        ": this program was built without Apache Arrow, which reads Parquet; pip install pyarrow, configure kto with "
        "-DKTO_WITH_ARROW=ON -DKTO_PYTHON=(that Python) and build again, or write the rows as JSON Lines");
  parquet_reader(path, is_used, visit);
}

inline const std::set<std::string> text_columns{"prompt", "completion", "label", "chosen", "rejected"};
inline const std::set<std::string> id_columns{"completion_input_ids", "completion_labels", "completion_attention_mask",
                                              "label"};
inline const std::set<std::string> template_columns{"tools", "chat_template_kwargs"};

/// Takes the rows of all files in turn. The first row that has a known format sets that of the data set.
class RowReader {
 public:
  using Sink = std::function<void(std::vector<Row>)>;
  static constexpr std::size_t block_rows = 8192;       ///< rows that are handed on together
  static constexpr std::size_t block_bytes = 16 << 20;  ///< or fewer where they are long

  /// With `stop_at_problem` a malformed row is an Error when it is come to; otherwise all of them are one Error in the
  /// end, and no row is handed on after the first.
  RowReader(std::vector<RowFiles> parts, Sink sink, bool stop_at_problem = false)
      : parts_(std::move(parts)), sink_(std::move(sink)), stop_at_problem_(stop_at_problem) {
    for (const RowFiles& part : parts_)
      for (const fs::path& file : part.files) {
        files_.push_back(file.string());
        std::error_code none;
        const auto size = fs::file_size(file, none);
        num_bytes_ += none ? 0 : static_cast<double>(size);
      }
  }

  const std::vector<std::string>& files() const { return files_; }
  /// How much of the files is read, from 0 to 1; may be asked by another thread.
  double share() const { return share_; }

  /// Reads everything. Returns the set without its rows. `where` names it in messages.
  RowSet run(std::string_view where) {
    for (const RowFiles& part : parts_) {
      part_ = &part;
      num_of_part_ = 0;
      seen_columns_.clear();
      for (const fs::path& file : part.files) {
        read(file);
        std::error_code none;
        const auto size = fs::file_size(file, none);
        bytes_before_ += none ? 0 : static_cast<double>(size);
        ++file_;
      }
      for (const std::string& column : part.columns)
        check(seen_columns_.contains(column), part.files.front().string(), ": no row has the column ", column,
              ", which is to be taken");
    }
    for (const RowFiles& part : parts_)
      check(!kind_ || kind_->format == RowFormat::Tokenized || part.label_pad_token_id == default_label_pad_token_id,
            where, ": label_pad_token_id says what completion_labels of tokenized rows hold, and these are ",
            describe(kind_.value_or(RowKind{})), "; leave it out");
    problems_.raise(concat("malformed rows of ", number_, " in ", where));
    check(number_ > 0, where, ": no rows; expected one JSON object a line, with prompt, completion and label");
    flush();
    RowSet set{.rows = {}, .kind = *kind_, .files = files_, .notes = {}};
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
  const std::string& file() const { return files_[file_]; }
  bool has_enough() const { return num_of_part_ >= part_->max_rows; }
  void note_share(double of_file) {
    std::error_code none;
    const auto size = fs::file_size(file(), none);
    if (num_bytes_ > 0 && !none) share_ = (bytes_before_ + of_file * static_cast<double>(size)) / num_bytes_;
  }

  void read(const fs::path& path) {
    if (path.extension() == ".parquet") {
      std::size_t row_of_file = 0;
      const auto is_used = [&](const std::string& column) {
        const bool is_taken =
            part_->columns.empty() || std::ranges::find(part_->columns, column) != part_->columns.end();
        return is_taken &&
               (text_columns.contains(column) || id_columns.contains(column) || template_columns.contains(column));
      };
      return read_parquet(path, is_used, [&](Json row, double share) {
        if (has_enough()) return false;
        take_parsed(std::move(row), begin_row(++row_of_file));
        if (row_of_file % 1024 == 0) note_share(share);
        return true;
      });
    }
    RowTexts texts(path);
    std::optional<CsvRecord> header;
    bool broken = false;
    const auto take_piece = [&](std::string_view text, bool is_last) {
      if (broken) return text.size();
      try {
        return texts(
            text, is_last, [&](const JsonText& json) { take(json); },
            [&](CsvRecord record) { take(header, std::move(record)); });
      } catch (const Error& error) {
        if (!texts.is_array()) throw;
        broken = true;
        ++number_;
        problem(error.what());
        return text.size();
      }
    };
    read_in_pieces(path, take_piece, [&](double of_file) { note_share(of_file); });
  }

  void take(std::optional<CsvRecord>& header, CsvRecord record) {
    if (!header) return void(header = std::move(record));
    if (has_enough()) return;
    const RowSource source = begin_row(record.line);
    for (const std::string& cell : record.cells) bytes_ += cell.size();
    Json row;
    try {
      row = csv_row(*header, std::move(record));
    } catch (const Error& error) {
      return problem(concat(file(), ": line ", source.line, ": ", error.what()));
    }
    take_parsed(std::move(row), source);
  }

  RowSource begin_row(std::size_t line) {
    ++num_of_part_;
    return {.number = ++number_, .file = file_, .line = line};
  }

  void problem(const std::string& message) {
    if (stop_at_problem_) fail(message);
    problems_.add(number_, message);
    rows_.clear(), pairs_.clear();
  }

  void take(const JsonText& text) {
    if (has_enough()) return;
    const RowSource source = begin_row(text.line);
    Json row;
    try {
      row = parse_row(text, file());
    } catch (const Error& error) {
      return problem(error.what());
    }
    bytes_ += text.text.size();
    take_parsed(std::move(row), source);
  }

  void take_parsed(Json row, RowSource source) {
    try {
      take(std::move(row), source);
    } catch (const Error& error) {
      return problem(concat(file(), ": line ", source.line, ": ", error.what()));
    }
    const bool full = rows_.size() + 2 * pairs_.size() >= block_rows || bytes_ >= block_bytes;
    if (full && pairs_.size() % unpair_chunk == 0) flush();
  }

  void take(Json row, RowSource source) {
    if (!part_->columns.empty() && row.is_object()) {
      Json kept = Json::object();
      for (const std::string& column : part_->columns)
        if (row.contains(column)) {
          seen_columns_.insert(column);
          kept[column] = std::move(row[column]);
        }
      row = std::move(kept);
    }
    const RowKind kind = check_columns(row);
    if (!kind_) {
      kind_ = kind;
      kind_from_ = concat(file(), ": line ", source.line);
    }
    check(kind == *kind_, "expected ", describe(*kind_), ", as ", kind_from_, " has; this row is of the kind ",
          describe(kind));
    RowContext context{.prompt = {},
                       .tokenized = kind.format == RowFormat::Tokenized,
                       .tools = check_tools(row),
                       .chat_template_kwargs = check_template_variables(row),
                       .source = source};
    note_unused(row, kind);
    if (kind.format == RowFormat::Tokenized) {
      auto [prompt, completion] = split_token_row(row, part_->label_pad_token_id);
      context.prompt = std::move(prompt);
      row["completion"] = std::move(completion);
    } else if (kind.format != RowFormat::ImplicitPrompt) {
      context.prompt = std::move(row["prompt"]);
    }
    if (kind.format == RowFormat::Unpaired || kind.format == RowFormat::Tokenized) {
      Row taken{std::move(context), std::move(row["completion"]), *label_of(row["label"])};
      if (problems_.empty()) rows_.push_back(std::move(taken));
    } else {
      Pair pair{std::move(context), std::move(row["chosen"]), std::move(row["rejected"])};
      if (kind.format == RowFormat::ImplicitPrompt) extract_prompt(pair);
      if (problems_.empty()) pairs_.push_back(std::move(pair));
    }
  }

  void note_unused(const Json& row, RowKind kind) {
    const auto& used = kind.format == RowFormat::Tokenized ? id_columns : text_columns;
    if (kind.format == RowFormat::ImplicitPrompt && find_value(row, "prompt")) prompt_column_unused_ = true;
    for (const auto& [key, value] : row.items())
      if (!value.is_null() && !used.contains(key) && !(kind.conversational && template_columns.contains(key)))
        unused_columns_.insert(key);
  }

  void flush() {
    bytes_ = 0;
    if (!pairs_.empty()) rows_ = unpair(pairs_);
    pairs_.clear();
    if (!rows_.empty()) sink_(std::exchange(rows_, {}));
  }

  std::vector<RowFiles> parts_;
  Sink sink_;
  bool stop_at_problem_;
  std::vector<std::string> files_;
  double num_bytes_ = 0, bytes_before_ = 0;
  std::atomic<double> share_ = 0;
  const RowFiles* part_ = nullptr;
  std::size_t file_ = 0;         ///< the one that is read
  std::size_t num_of_part_ = 0;  ///< rows of it so far
  std::size_t bytes_ = 0;        ///< of the block's rows
  std::vector<Row> rows_;
  std::vector<Pair> pairs_;
  std::optional<RowKind> kind_;
  std::string kind_from_;
  std::size_t number_ = 0;
  Problems problems_;
  std::set<std::string> unused_columns_, seen_columns_;
  bool prompt_column_unused_ = false;
};

/// How many rows a file has, without looking at them. Throws Error when it cannot be read.
inline std::size_t count_rows(const fs::path& path) {
  std::size_t count = 0;
  if (path.extension() == ".parquet") {
    read_parquet(path, [](const std::string&) { return false; }, [&](const Json&, double) { return ++count > 0; });
    return count;
  }
  RowTexts texts(path);
  bool is_csv = false;
  const auto take_piece = [&](std::string_view text, bool is_last) {
    return texts(text, is_last, [&](const JsonText&) { ++count; }, [&](const CsvRecord&) { ++count, is_csv = true; });
  };
  read_in_pieces(path, take_piece, [](double) {});
  if (is_csv) --count;  // the header
  return count;
}

}  // namespace kto::detail
