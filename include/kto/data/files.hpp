// SPDX-License-Identifier: Apache-2.0
// Which files a data set's split is read from.
#pragma once

#include <glob.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

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

/// Files that a path with *, ? or [...] stands for, sorted by name. Throws Error when there are none.
inline std::vector<fs::path> matching_files(const fs::path& pattern) {
  glob_t found{};
  const int status = ::glob(pattern.c_str(), 0, nullptr, &found);
  std::vector<fs::path> files;
  for (std::size_t i = 0; status == 0 && i < found.gl_pathc; ++i)
    if (fs::is_regular_file(found.gl_pathv[i])) files.emplace_back(found.gl_pathv[i]);
  ::globfree(&found);
  check(!files.empty(), pattern.string(), ": no file matches");
  for (const fs::path& file : files)
    check(is_data_file(file), file.string(), ": unknown kind of data file; expected .jsonl, .json, .csv or .parquet");
  return files;
}

/// Data files right in `folder` whose name begins with `split`, sorted by name.
inline std::vector<fs::path> split_files(const fs::path& folder, std::string_view split) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_regular_file() && is_data_file(entry.path()) && entry.path().filename().string().starts_with(split))
      files.push_back(entry.path());
  std::ranges::sort(files);
  return files;
}

}  // namespace detail

/// The files of `split` of the data set at `path`: a folder's SPLIT*.jsonl (or .json, .ndjson, .csv, compressed or
/// not, or .parquet), there or in its subfolder data/, in the order of their names; or the file `path`, or the files
/// that it matches (*, ?, [...]), which are all "train". Throws Error when there is none.
inline std::vector<fs::path> data_files(const fs::path& path, std::string_view split = "train") {
  const fs::file_status status = fs::status(path);
  const bool is_pattern = !fs::exists(status) && path.string().find_first_of("*?[") != std::string::npos;
  check(is_pattern || fs::exists(status), path.string(),
        ": no such file or folder (expected a .jsonl or .json file, or a folder with ", split, "*.jsonl)");
  check(!split.empty(), path.string(), ": the name of the split is empty; expected one such as train or test");
  if (!fs::is_directory(status)) {
    check(is_pattern || detail::is_data_file(path), path.string(),
          ": unknown kind of data file; expected .jsonl, .json, .csv (also followed by .gz or .zst) or .parquet");
    check(split == "train", path.string(), ": a single file holds the split train, not ", split,
          "; give a folder with train*.jsonl and ", split, "*.jsonl");
    return is_pattern ? detail::matching_files(path) : std::vector<fs::path>{path};
  }
  auto files = detail::split_files(path, split);
  if (files.empty() && fs::is_directory(path / "data")) files = detail::split_files(path / "data", split);
  check(!files.empty(), path.string(), ": no data for the split ", split, "; expected ", split, "*.jsonl or ", split,
        "*.json in this folder");
  return files;
}

}  // namespace kto
