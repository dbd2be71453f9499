// SPDX-License-Identifier: Apache-2.0
// Which files a data set's split is read from.
#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "kto/io/file.hpp"

namespace kto {

/// Endings of files that read_rows reads.
inline constexpr std::array<std::string_view, 3> data_file_endings{".jsonl", ".json", ".ndjson"};

namespace detail {

inline bool is_data_file(const fs::path& path) {
  return std::ranges::find(data_file_endings, path.extension().string()) != data_file_endings.end();
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

/// The files of `split` of the data set at `path`: a folder's SPLIT*.jsonl (or .json, .ndjson), there or in its
/// subfolder data/, in the order of their names; or the file `path`, which is all "train". Throws Error when there is
/// none.
inline std::vector<fs::path> data_files(const fs::path& path, std::string_view split = "train") {
  const fs::file_status status = fs::status(path);
  check(fs::exists(status), path.string(),
        ": no such file or folder (expected a .jsonl or .json file, or a folder with ", split, "*.jsonl)");
  check(!split.empty(), path.string(), ": the name of the split is empty; expected one such as train or test");
  if (!fs::is_directory(status)) {
    check(detail::is_data_file(path), path.string(), ": unknown kind of data file; expected .jsonl or .json");
    check(split == "train", path.string(), ": a single file holds the split train, not ", split,
          "; give a folder with train*.jsonl and ", split, "*.jsonl");
    return {path};
  }
  auto files = detail::split_files(path, split);
  if (files.empty() && fs::is_directory(path / "data")) files = detail::split_files(path / "data", split);
  check(!files.empty(), path.string(), ": no data for the split ", split, "; expected ", split, "*.jsonl or ", split,
        "*.json in this folder");
  return files;
}

}  // namespace kto
