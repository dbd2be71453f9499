// SPDX-License-Identifier: Apache-2.0
// Hashes of the rows that a pass over a stream has read. A checkpoint keeps them, and a resumed run compares them with
// the rows it reads again. As for rows in memory, token ids and labels count, not the text of the file. Used by
// feed.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "kto/collate/batch.hpp"
#include "kto/io/content_hash.hpp"
#include "kto/io/json.hpp"

namespace kto {

namespace detail {

inline void add_row(ContentHash& hash, const Example& row) {
  hash.add(std::span<const std::int32_t>(row.prompt_ids));
  hash.add(std::span<const std::int32_t>(row.completion_ids));
  hash.add(std::string_view(row.label ? "1" : "0"));
}

}  // namespace detail

/// Hashes of the first `every` rows of a pass, of the first 2 * `every` and so on, and of all its `count` rows. Their
/// number is bounded, however many rows there are.
struct RowMarks {
  static constexpr std::size_t digits = 16;  ///< per hash
  static constexpr std::size_t most = 1024;

  std::int64_t count = 0, every = 1;
  std::string hashes;  ///< concatenated
  std::string last;    ///< of all rows

  /// The hash of the first `rows` rows; empty if unknown.
  std::string_view after(std::int64_t rows) const {
    if (rows == count) return last;
    if (rows % every != 0 || rows > count) return {};
    return std::string_view(hashes).substr(static_cast<std::size_t>(rows / every - 1) * digits, digits);
  }

  /// Throws Error, starting with `where`, for anything that to_json cannot have written.
  static RowMarks from_json(const Json& json, const std::string& where) {
    RowMarks out{.count = json_value<std::int64_t>(json, "count", -1, where),
                 .every = json_value<std::int64_t>(json, "every", 0, where),
                 .hashes = json_value<std::string>(json, "hashes", "", where),
                 .last = json_value<std::string>(json, "last", "", where)};
    check(out.count >= 0 && out.every > 0 &&
              out.hashes.size() == static_cast<std::size_t>(out.count / out.every) * digits,
          where, ": the hashes of its rows are damaged");
    return out;
  }
  Json to_json() const { return {{"count", count}, {"every", every}, {"hashes", hashes}, {"last", last}}; }
};

/// Whether both describe the same rows, as far as both go.
inline bool agree(const RowMarks& a, const RowMarks& b) {
  const std::int64_t both = std::min(a.count, b.count), every = std::max(a.every, b.every);  // one divides the other
  for (std::int64_t rows = every; rows <= both; rows += every)
    if (a.after(rows) != b.after(rows)) return false;
  return true;
}

/// Computes the marks of a sequence of rows.
class RowMarker {
 public:
  void add(const Example& row) {
    detail::add_row(hash_, row);
    if (++marks_.count % marks_.every != 0) return;
    marks_.hashes += digest();
    if (marks_.hashes.size() < RowMarks::most * RowMarks::digits) return;
    std::string kept;  // every second one
    for (std::size_t i = RowMarks::digits; i < marks_.hashes.size(); i += 2 * RowMarks::digits)
      kept += marks_.hashes.substr(i, RowMarks::digits);
    marks_.hashes = std::move(kept);
    marks_.every *= 2;
  }
  std::int64_t count() const { return marks_.count; }
  std::string digest() const { return hash_.hex().substr(0, RowMarks::digits); }
  RowMarks marks() const {
    RowMarks out = marks_;
    out.last = digest();
    return out;
  }

 private:
  ContentHash hash_;
  RowMarks marks_;
};

/// Compares rows with those that the run of a checkpoint was trained on.
class RowCheck {
 public:
  /// `file` maps the number of a row to its file; it may be empty.
  RowCheck(RowMarks known, std::function<std::string(std::size_t)> file)
      : known_(std::move(known)), file_(std::move(file)) {}

  /// How many rows of the pass may be used: those verified to be the same; unlimited after the last known row.
  std::int64_t num_good() const { return good_ < known_.count ? good_ : INT64_MAX; }

  /// Adds the next row. Throws Error if it, or one shortly before it, has changed.
  void add(const Example& row) {
    if (num_good() == INT64_MAX) return;
    detail::add_row(hash_, row);
    ++count_;
    const std::size_t number = file_ ? row.row : static_cast<std::size_t>(count_);
    low_ = std::min(low_, number), high_ = std::max(high_, number);
    const std::string_view expected = known_.after(count_);
    if (expected.empty()) return;
    if (hash_.hex().substr(0, RowMarks::digits) != expected)
      fail(where(low_, high_), low_ == high_ ? concat("row ", low_) : concat("one of the rows ", low_, " to ", high_),
           " has changed since the checkpoint: the run was trained on different token ids or labels there (the "
           "file, the tokenizer or the chat template has changed)",
           advice);
    good_ = count_;
    last_ = high_;
    low_ = SIZE_MAX;
    high_ = 0;
  }

  /// Throws Error if there should be more rows.
  void end() const {
    if (num_good() == INT64_MAX) return;
    const std::size_t last = std::max(last_, high_);
    fail(where(last, last), "ends after ", count_, " rows, but the run was trained on ", known_.count,
         ": rows have been removed since the checkpoint", advice);
  }

 private:
  static constexpr const char* advice = "; restore the rows, or start at the first row again with ignore_data_skip";

  /// The files of the rows `from` to `to`.
  std::string where(std::size_t from, std::size_t to) const {
    if (!file_) return "the stream of rows: ";
    const std::string first = file_(from), last = file_(to);
    return concat(first, first == last ? "" : " to " + last, ": ");
  }

  RowMarks known_;
  std::function<std::string(std::size_t)> file_;
  ContentHash hash_;
  std::int64_t count_ = 0, good_ = 0;
  std::size_t low_ = SIZE_MAX, high_ = 0;  ///< numbers of the rows after the last mark
  std::size_t last_ = 0;                   ///< the highest before that mark
};

}  // namespace kto
