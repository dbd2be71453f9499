// SPDX-License-Identifier: Apache-2.0
// Reads a data set: JSON Lines, JSON arrays, CSV, compressed or not, or Parquet, of TRL's unpaired or paired preference
// rows, checked one by one. All that is wrong is told in one Error before anything is trained on. Flow: files -> here
// -> encode.
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

namespace kto {

/// Reads the rows of `parts`, one after another, into the trainer's order: the rows as they stand, or of each thousand
/// pairs the chosen rows and then the rejected ones. A byte-order mark, blank lines and CRLF are fine. Throws one Error
/// for all malformed rows: file, line, column or key, and what was expected; the first ten in full.
inline RowSet read_rows(std::vector<RowFiles> parts, std::string_view where) {
  std::vector<Row> rows;
  detail::RowReader reader(std::move(parts), [&](std::vector<Row> block) {
    rows.insert(rows.end(), std::move_iterator(block.begin()), std::move_iterator(block.end()));
  });
  RowSet set = reader.run(where);
  set.rows = std::move(rows);
  return set;
}

/// Reads `split` of the data set at `path` (see data_files).
inline RowSet read_rows(const fs::path& path, std::string_view split = "train") {
  const auto files = data_files(path, split);
  return read_rows({{.files = files}}, files.size() == 1 ? files.front().string() : path.string());
}

/// The rows of a data set block by block, for sets that are larger than memory: a thread reads at most two blocks
/// ahead.
class RowBlocks {
 public:
  /// See read_rows; with `stop_at_problem` a malformed row is an Error when it is come to, not before.
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

  /// The next rows; none at the end. Throws the Error of what was read.
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

  const std::vector<std::string>& files() const { return reader_.files(); }
  double share() const { return reader_.share(); }                      ///< of the files, that is read, from 0 to 1
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
    } catch (const Stopped&) {  // NOLINT(bugprone-empty-catch): the rows are no longer wanted
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
  std::jthread thread_;  // last: joined before what it uses is gone
};

}  // namespace kto
