// SPDX-License-Identifier: Apache-2.0
// The format of a data file, from its name, and which format to read in a folder that has several.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kto/io/compressed.hpp"

namespace kto {

/// File formats of rows. JSON is one object per line, objects in a row, or an array of them.
enum class DataFormat : std::uint8_t { json, csv, tsv, parquet, arrow };

/// Endings of data files; text may be compressed, with another ending after it (compressed_endings). If a folder has
/// equally many files of two formats, the first one here is read, as in datasets.
struct DataEnding {
  std::string_view ending;
  DataFormat format;
};
inline constexpr std::array<DataEnding, 9> data_endings{{{".parquet", DataFormat::parquet},
                                                         {".arrow", DataFormat::arrow},
                                                         {".jsonl", DataFormat::json},
                                                         {".json", DataFormat::json},
                                                         {".csv", DataFormat::csv},
                                                         {".tsv", DataFormat::tsv},
                                                         {".ndjson", DataFormat::json},
                                                         {".gpq", DataFormat::parquet},
                                                         {".geoparquet", DataFormat::parquet}}};

namespace detail {

inline constexpr std::string_view known_data_files =
    ".jsonl, .json, .csv, .ndjson or .tsv (also followed by .gz, .zst, .bz2 or .xz), .parquet or .arrow";

/// The entry of data_endings that matches a file's name, ignoring a compression ending; none for other files.
inline std::optional<std::size_t> ending_of(const fs::path& path) {
  const std::string ending = (is_compressed(path) ? path.stem() : path).extension().string();
  const auto found = std::ranges::find(data_endings, ending, &DataEnding::ending);
  if (found == data_endings.end()) return {};
  return static_cast<std::size_t>(found - data_endings.begin());
}

inline std::optional<DataFormat> format_of(const fs::path& path) {
  const auto ending = ending_of(path);
  return ending ? std::optional(data_endings[*ending].format) : std::nullopt;
}

/// Archives, which datasets would unpack. Skipping one silently would lose rows.
inline bool is_archive(const fs::path& path) {
  const std::string ending = path.extension().string();
  if (ending == ".zip") return true;
  return (ending == ".7z" || ending == ".rar" || ending == ".lz4") && ending_of(path.stem());
}

inline bool is_data_file(const fs::path& path) { return ending_of(path) || is_archive(path); }

/// Like datasets, keeps one format: the most common one in `files`. Removes the other files and returns them.
inline std::vector<fs::path> keep_one_format(std::vector<fs::path>& files) {
  std::map<std::size_t, std::size_t> count;  // per ending
  for (const fs::path& file : files)
    if (const auto ending = ending_of(file)) ++count[*ending];
  if (count.size() < 2) return {};
  const auto fewer = [](const auto& a, const auto& b) { return a.second < b.second; };  // the first of equals wins
  const DataFormat kept = data_endings[std::ranges::max_element(count, fewer)->first].format;
  const auto is_other = [&](const fs::path& file) { return !is_archive(file) && format_of(file) != kept; };
  std::vector<fs::path> others;
  std::ranges::copy_if(files, std::back_inserter(others), is_other);
  std::erase_if(files, is_other);
  return others;
}

}  // namespace detail
}  // namespace kto
