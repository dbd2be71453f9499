// SPDX-License-Identifier: Apache-2.0
// Reads a data set of TRL's unpaired or paired preference rows from JSON Lines, JSON arrays or CSV, compressed or not,
// or Parquet. Checks each row, and reports all problems in one Error before training starts.
// Flow: files -> here -> encode.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <iterator>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "kto/data/detail/row_reader.hpp"
#include "kto/data/detail/split_spec.hpp"

namespace kto {

/// The number of rows in `part`, without checking them. Throws Error if a file cannot be read.
inline std::size_t count_rows(const RowFiles& part) {
  std::size_t count = 0;
  for (const fs::path& file : part.files) count += detail::count_rows(file, part.format);
  return std::min(count - std::min(part.first_row, count), part.max_rows);
}

/// The files of each term of `source.split`, such as "train[:10%]+test", and which of their rows to read. Throws Error;
/// see data_files.
inline std::vector<RowFiles> row_files(const DataSource& source) {
  std::vector<RowFiles> out;
  for (const detail::SplitSlice& slice : detail::parse_split(source.split)) {
    DataSource plain = source;
    plain.split = slice.split;
    RowFiles part = data_files(plain);
    const auto [begin, end] = slice.range(slice.needs_count() ? count_rows(part) : PTRDIFF_MAX);
    part.first_row = begin;
    if (slice.to || slice.needs_count()) part.max_rows = end - begin;
    if (part.max_rows > 0) out.push_back(std::move(part));
  }
  check(!out.empty(), source.path.string(), ": the split ", source.split, " has no rows");
  return out;
}

/// Reads the rows of `parts` in the trainer's order: unpaired rows as they are; of each thousand pairs, first the
/// chosen rows and then the rejected ones. Accepts a byte-order mark, blank lines and CRLF. Throws one Error for all
/// malformed rows, with file, line, column or key, and what was expected; the first ten in full.
inline RowSet read_rows(std::vector<RowFiles> parts, std::string_view where) {
  std::vector<Row> rows;
  detail::RowReader reader(std::move(parts), [&](std::vector<Row> block) {
    rows.insert(rows.end(), std::move_iterator(block.begin()), std::move_iterator(block.end()));
  });
  RowSet set = reader.run(where);
  set.rows = std::move(rows);
  return set;
}

/// The name in messages for the rows of `parts`, which come from `path`.
inline std::string rows_name(const std::vector<RowFiles>& parts, const fs::path& path) {
  const bool is_one_file = parts.size() == 1 && parts[0].files.size() == 1;
  return (is_one_file ? parts[0].files[0] : path).string();
}

/// Reads the data set that `source` names (see data_files and row_files).
inline RowSet read_rows(const DataSource& source) {
  auto parts = row_files(source);
  const std::string name = rows_name(parts, source.path);
  return read_rows(std::move(parts), name);
}

/// Reads `split` of the data set at `path`.
inline RowSet read_rows(const fs::path& path, const std::string& split = "train") {
  return read_rows(DataSource{.path = path, .split = split});
}

/// Streams the rows of a data set in blocks, for sets larger than memory. A thread reads at most two blocks ahead.
class RowBlocks {
 public:
  /// See read_rows. With `stop_at_problem`, a malformed row is an Error only when it is reached.
  RowBlocks(std::vector<RowFiles> parts, std::string where, bool stop_at_problem = false)
      : reader_(
            std::move(parts), [this](std::vector<Row> block) { put(std::move(block)); }, stop_at_problem),
        thread_([this, where = std::move(where)] { run(where); }) {}
  RowBlocks(const RowBlocks&) = delete;
  RowBlocks& operator=(const RowBlocks&) = delete;
  ~RowBlocks() {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    changed_.notify_all();
  }

  /// The next rows; empty at the end. Throws the Error that reading met.
  std::vector<Row> next() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !blocks_.empty() || ended_; });
    if (!blocks_.empty()) {
      std::vector<Row> block = std::move(blocks_.front());
      blocks_.pop_front();
      changed_.notify_all();
      return block;
    }
    if (failure_) std::rethrow_exception(failure_);
    return {};
  }

  /// That RowSource::file counts.
  const std::vector<std::string>& files() const { return reader_.files(); }
  double share() const { return reader_.share(); }                      ///< read so far, from 0 to 1
  const std::vector<std::string>& notes() const { return set_.notes; }  ///< complete at the end

 private:
  struct Stopped {};

  void put(std::vector<Row> block) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stopped_ || blocks_.size() < 2; });
    if (stopped_) throw Stopped{};
    blocks_.push_back(std::move(block));
    changed_.notify_all();
  }

  void run(const std::string& where) {
    RowSet set;
    std::exception_ptr failure;
    try {
      set = reader_.run(where);
    } catch (const Stopped&) {  // NOLINT(bugprone-empty-catch): the reader has been destroyed
    } catch (...) {
      failure = std::current_exception();
    }
    const std::lock_guard lock(mutex_);
    set_ = std::move(set);
    failure_ = failure;
    ended_ = true;
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::vector<Row>> blocks_;
  RowSet set_;
  std::exception_ptr failure_;
  bool stopped_ = false, ended_ = false;
  detail::RowReader reader_;
  std::jthread thread_;  // last, so that it is joined before what it uses is destroyed
};

}  // namespace kto
