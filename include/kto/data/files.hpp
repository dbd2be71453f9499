// SPDX-License-Identifier: Apache-2.0
// Which files a data set's split is read from.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kto/data/detail/split_files.hpp"
#include "kto/io/compressed.hpp"

namespace kto {

/// Endings of files that read_rows reads; .gz or .zst may follow, but on Parquet.
inline constexpr std::array<std::string_view, 5> data_file_endings{".jsonl", ".json", ".ndjson", ".csv", ".parquet"};

inline constexpr std::int64_t default_label_pad_token_id = -100;

/// Files that rows are read from, and what is taken of them.
struct RowFiles {
  std::vector<fs::path> files;
  std::vector<std::string> columns = {};  ///< these alone; all when empty
  std::size_t max_rows = SIZE_MAX;        ///< the first ones alone
  /// In tokenized rows, the value in completion_labels of what is not the completion.
  std::int64_t label_pad_token_id = default_label_pad_token_id;
};

namespace detail {

inline bool is_data_file(const fs::path& path) {
  const fs::path name = is_compressed(path) ? path.stem() : path;
  return std::ranges::find(data_file_endings, name.extension().string()) != data_file_endings.end();
}

}  // namespace detail

/// The files of `split` of the data set at `path`: of a folder those that its names tell (detail/split_files.hpp:
/// data/train-00000-of-00001.parquet, train/*.jsonl, train*.csv; .jsonl, .json, .ndjson, .csv, compressed or not, or
/// .parquet); or the file `path`, or the files that it matches (*, ?, [...], and ** for any folders), in the order of
/// their names, which are all "train". Throws Error when there is none.
inline std::vector<fs::path> data_files(const fs::path& path, std::string_view split = "train") {
  const fs::file_status status = fs::status(path);
  const bool is_pattern = !fs::exists(status) && detail::is_pattern(path.native());
  check(is_pattern || fs::exists(status), path.string(),
        ": no such file or folder (expected a .jsonl or .json file, or a folder with ", split, "*.jsonl)");
  check(!split.empty(), path.string(), ": the name of the split is empty; expected one such as train or test");
  if (!fs::is_directory(status)) {
    const auto files = is_pattern ? detail::matching_files(path) : std::vector<fs::path>{path};
    for (const fs::path& file : files)
      check(detail::is_data_file(file), file.string(),
            ": unknown kind of data file; expected .jsonl, .json, .csv (also followed by .gz or .zst) or .parquet");
    check(split == "train", path.string(), ": a single file holds the split train, not ", split,
          "; give a folder with train*.jsonl and ", split, "*.jsonl");
    return files;
  }
  const detail::SplitFiles folder(path, detail::is_data_file);
  auto files = folder.of(split);
  std::string others;
  if (files.empty())
    for (const std::string& other : folder.splits())
      others += (others.empty() ? "; the splits it has: " : ", ") + other;
  check(!files.empty(), path.string(), ": no data for the split ", split, "; expected ", split, "*.jsonl or ", split,
        "*.json in this folder", others);
  return files;
}

}  // namespace kto
