// SPDX-License-Identifier: Apache-2.0
// Reads rows from files, checks them one by one, and passes them on in blocks, so that the caller decides how much of a
// data set is in memory.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <functional>
#include <map>
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

/// Calls its last argument for each row of a Parquet or Arrow file, with the share of the file read so far (0 to 1),
/// until that returns false. For unused columns, only says whether they hold something.
using TableReader = void (*)(const fs::path&, DataFormat, const std::function<bool(const std::string& column)>& is_used,
                             const std::function<bool(Json row, double share)>&);
inline std::atomic<TableReader> table_reader = nullptr;  ///< set by enable_parquet() alone (data/parquet.hpp)

inline bool is_table(DataFormat format) { return format == DataFormat::parquet || format == DataFormat::arrow; }

/// Throws Error if this program does not read files of the format.
inline void check_reads(const fs::path& path, DataFormat format) {
  check(!is_table(format) || table_reader != nullptr, path.string(),
        ": this program was built without Apache Arrow, which reads ",
        format == DataFormat::parquet ? "Parquet" : "Arrow files, as datasets' save_to_disk writes them",
        "; pip install pyarrow, configure kto with -DKTO_WITH_ARROW=ON -DKTO_PYTHON=(that Python) and build again, or "
        "write the rows as JSON Lines. A program of your own also calls kto::enable_parquet()");
}

inline void read_table(const fs::path& path, DataFormat format, const std::function<bool(const std::string&)>& is_used,
                       const std::function<bool(Json, double)>& visit) {
  check_reads(path, format);
  table_reader.load()(path, format, is_used, visit);
}

/// Reads the rows of all files in turn. The first row with a known format determines the format of the data set.
class RowReader {
 public:
  using Sink = std::function<void(std::vector<Row>)>;
  static constexpr std::size_t block_rows = 8192;       ///< rows passed on together
  static constexpr std::size_t block_bytes = 16 << 20;  ///< or fewer if they are long
  static constexpr std::size_t stream_share = 16;       ///< blocks of a stream are this much smaller

  /// With `stop_at_problem` (for streams), a malformed row is an Error as soon as it is read. Otherwise all malformed
  /// rows are reported in one Error at the end, and no rows are passed on after the first.
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
  /// The share of the files read so far, from 0 to 1. Any thread may call it.
  double share() const { return share_; }

  /// Reads everything and returns the set without its rows. `where` names it in messages.
  RowSet run(std::string_view where) {
    for (const RowFiles& part : parts_) {
      part_ = &part;
      num_of_part_ = num_seen_ = 0;
      seen_columns_.clear();
      for (const fs::path& file : part.files) {
        read(file, part.format.value_or(format_of(file).value_or(DataFormat::json)));
        std::error_code none;
        const auto size = fs::file_size(file, none);
        bytes_before_ += none ? 0 : static_cast<double>(size);
        ++file_;
      }
      for (const std::string& column : part.columns)
        check(seen_columns_.contains(column), part.files.front().string(), ": no row has the requested column ",
              column);
    }
    for (const RowFiles& part : parts_)
      check(!kind_ || kind_->format == RowFormat::Tokenized || part.label_pad_token_id == default_label_pad_token_id,
            where, ": label_pad_token_id only applies to completion_labels of tokenized rows, and these are ",
            describe(kind_.value_or(RowKind{})), "; leave it out");
    problems_.raise(concat("malformed rows of ", number_, " in ", where));
    check(number_ > 0, where, ": no rows; expected ", expected_rows());
    flush();
    RowSet set{.rows = {}, .kind = *kind_, .files = files_, .notes = {}};
    for (const RowFiles& part : parts_) set.notes.insert(set.notes.end(), part.notes.begin(), part.notes.end());
    if (prompt_column_unused_)
      set.notes.push_back(
          "\"prompt\" is plain text but chosen and rejected are conversations: the messages that both begin with "
          "become "
          "the prompt, and the column is ignored");
    if (kind_->format != RowFormat::Unpaired && unused_columns_.erase("label") > 0)
      set.notes.push_back("pairs have a column \"label\", which is ignored: chosen is desirable, rejected is not");
    constexpr std::size_t max_named = 20;
    std::string unused;
    std::size_t num_named = 0;
    for (const auto& column : unused_columns_)
      if (num_named++ < max_named) unused += (unused.empty() ? "" : ", ") + shortened(column, 60);
    if (num_named > max_named) unused += concat(" and ", num_named - max_named, " more");
    if (!unused.empty()) set.notes.push_back("unused columns: " + unused);
    return set;
  }

 private:
  const std::string& file() const { return files_[file_]; }
  std::string expected_rows() const {
    const RowFiles* part = parts_.empty() ? nullptr : &parts_.front();
    if (part != nullptr && part->first_row > 0) return concat("more than the ", part->first_row, " skipped rows");
    const auto format = part == nullptr || part->files.empty() ? std::nullopt
                        : part->format                         ? part->format
                                                               : format_of(part->files.front());
    const bool is_csv = format == DataFormat::csv || format == DataFormat::tsv;
    return concat(is_csv ? "a header and one record a line" : "one JSON object a line",
                  ", with prompt, completion and label");
  }
  bool has_enough() const { return num_of_part_ >= part_->max_rows; }
  /// Whether the part includes the current row.
  bool is_wanted() { return num_seen_++ >= part_->first_row && !has_enough(); }
  void note_share(double of_file) {
    std::error_code none;
    const auto size = fs::file_size(file(), none);
    if (num_bytes_ > 0 && !none) share_ = (bytes_before_ + of_file * static_cast<double>(size)) / num_bytes_;
  }

  void read(const fs::path& path, DataFormat format) {
    if (is_table(format)) {
      std::size_t row_of_file = 0;
      const auto is_used = [&](const std::string& column) {
        const bool is_taken =
            part_->columns.empty() || std::ranges::find(part_->columns, column) != part_->columns.end();
        return is_taken && std::ranges::any_of(std::array{&pair_columns, &row_columns, &id_columns, &template_columns},
                                               [&](const auto* columns) { return columns->contains(column); });
      };
      return read_table(path, format, is_used, [&](Json row, double share) {
        if (has_enough()) return false;
        check_interrupt();
        ++row_of_file;
        if (!is_wanted()) return true;
        const RowSource source = begin_row(row_of_file);
        take_checked(source, [&] { take(std::move(row), source); });
        if (row_of_file % 1024 == 0) note_share(share);
        return true;
      });
    }
    RowTexts texts(path, format);
    std::optional<CsvRecord> header;
    bool broken = false;
    const auto take_piece = [&](std::string_view text, bool is_last) {
      if (broken || has_enough()) return read_enough;
      try {
        return texts(
            text, is_last, [&](const JsonText& json) { take(json); },
            [&](CsvRecord record) { take(header, std::move(record)); });
      } catch (const Error& error) {
        if (!texts.has_brackets()) throw;
        broken = true;
        ++number_;
        problem(error.what());
        return read_enough;
      }
    };
    read_in_pieces(path, take_piece, [&](double of_file) { note_share(of_file); });
  }

  void take(std::optional<CsvRecord>& header, CsvRecord record) {
    check(header || record.problem.empty(), file(), ": line ", record.line, ": the header: ", record.problem);
    if (!header) return void(header.emplace(std::move(record)));
    if (!is_wanted()) return;
    const RowSource source = begin_row(record.line);
    for (const std::string& cell : record.cells) bytes_ += cell.size();
    take_checked(source, [&] { take(csv_row(*header, std::move(record)), source); });
  }

  RowSource begin_row(std::size_t line) {
    ++num_of_part_;
    return {.number = ++number_, .file = file_, .line = line};
  }

  void problem(const std::string& message) {
    if (stop_at_problem_) fail(message);
    problems_.add(number_, message);
    rows_.clear();
    pairs_.clear();
  }

  void take(const JsonText& text) {
    if (!is_wanted()) return;
    const RowSource source = begin_row(text.line);
    ParsedRow parsed;
    try {
      parsed = parse_row(text, file());
    } catch (const Error& error) {
      return problem(error.what());
    }
    bytes_ += text.text.size();
    take_checked(source, [&] { take(std::move(parsed.row), source, parsed.nonfinite); });
  }

  /// Calls take_row(), and records its Error as a problem of the row.
  template <class TakeRow>
  void take_checked(RowSource source, const TakeRow& take_row) {
    try {
      take_row();
    } catch (const Error& error) {
      return problem(concat(file(), ": line ", source.line, ": ", shortened(error.what(), max_row_message)));
    }
    const std::size_t share = stop_at_problem_ ? stream_share : 1;
    const bool full = rows_.size() + 2 * pairs_.size() >= block_rows / share || bytes_ >= block_bytes / share;
    if (full && pairs_.size() % unpair_chunk == 0) flush();
  }

  /// `nonfinite` says where the row has NaN or an infinity, by column. In columns that are used this is an error.
  void take(Json row, RowSource source, const std::map<std::string, std::string>& nonfinite = {}) {
    if (!part_->columns.empty() && row.is_object()) {
      Json kept = Json::object();
      for (const std::string& column : part_->columns)
        if (row.contains(column)) {
          seen_columns_.insert(column);
          kept[column] = std::move(row[column]);
        }
      row = std::move(kept);
    }
    const auto check_finite = [&](const std::set<std::string>& columns) {
      for (const auto& [column, at] : nonfinite)
        check(!columns.contains(column) || !row.contains(column), column, shortened(at, 100),
              " is NaN or an infinity, which is not JSON; expected a value");
    };
    check_finite(row.is_object() ? used_columns(row) : row_columns);
    const RowKind kind = check_columns(row);
    if (kind.conversational) check_finite(template_columns);
    if (!kind_) {
      kind_ = kind;
      kind_from_ = concat(file(), ": line ", source.line);
      check(part_->pairs_for.empty() || is_paired(kind.format), part_->pairs_for, " compares pairs: expected ",
            describe({RowFormat::Paired, kind.conversational}), ", and this row is one of ", describe(kind));
    }
    check(kind == *kind_, "expected ", describe(*kind_), ", as in ", kind_from_, "; this row is one of ",
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
    const auto& used = used_columns(row);
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
  std::size_t file_ = 0;         ///< the current one
  std::size_t num_of_part_ = 0;  ///< rows taken from it so far
  std::size_t num_seen_ = 0;     ///< these and the skipped ones before its first row
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

/// The number of rows of a file, without checking them. Throws Error if it cannot be read.
inline std::size_t count_rows(const fs::path& path, std::optional<DataFormat> format = {}) {
  std::size_t count = 0;
  const DataFormat kind = format.value_or(format_of(path).value_or(DataFormat::json));
  if (is_table(kind)) {
    read_table(path, kind, [](const std::string&) { return false; }, [&](const Json&, double) { return ++count > 0; });
    return count;
  }
  RowTexts texts(path, kind);
  bool is_csv = false;
  const auto take_piece = [&](std::string_view text, bool is_last) {
    return texts(
        text, is_last, [&](const JsonText&) { ++count; },
        [&](const CsvRecord&) {
          ++count;
          is_csv = true;
        });
  };
  read_in_pieces(path, take_piece, [](double) {});
  if (is_csv) --count;  // the header
  return count;
}

}  // namespace kto::detail
