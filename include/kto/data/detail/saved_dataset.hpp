// SPDX-License-Identifier: Apache-2.0
// Folders written by datasets' save_to_disk: Arrow files, which state.json lists in order. A DatasetDict has one such
// folder for each split in dataset_dict.json.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "kto/io/json.hpp"

namespace kto::detail {

inline bool is_saved_dataset(const fs::path& folder) {
  std::error_code none;
  return fs::is_regular_file(folder / "dataset_dict.json", none) ||
         (fs::is_regular_file(folder / "state.json", none) && fs::is_regular_file(folder / "dataset_info.json", none));
}

/// The files of one Dataset. If `split` is given, the set must be that split; without a name of its own it is train.
/// Throws Error.
inline std::vector<fs::path> saved_files(const fs::path& folder, const std::optional<std::string>& split) {
  const fs::path file = folder / "state.json";
  const Json state = read_json(file);
  const auto bad = [&] {
    fail(file.string(), ": not in the format of datasets' save_to_disk; save the data set again");
  };
  if (!state.is_object() || !state.contains("_data_files") || !state["_data_files"].is_array()) bad();
  const auto own = json_value<std::string>(state, "_split", "", file.string());
  const bool is_named = !own.empty() && own.find_first_of("[+") == std::string::npos;
  check(!split || *split == (is_named ? own : "train"), folder.string(), ": no data for the split ", split.value_or(""),
        "; the splits it has: ", is_named ? own : "train");
  std::vector<fs::path> files;
  for (const Json& item : state["_data_files"]) {
    if (!item.is_object() || !item.contains("filename") || !item["filename"].is_string()) bad();
    const fs::path name = item["filename"].get<std::string>();
    if (name.empty() || name != name.filename()) bad();
    files.push_back(folder / name);
  }
  return files;
}

/// The files of `split` of a Dataset or a DatasetDict. Throws Error.
inline std::vector<fs::path> saved_split(const fs::path& folder, const std::string& split) {
  const fs::path dict = folder / "dataset_dict.json";
  if (!fs::exists(dict)) return saved_files(folder, split);
  const Json about = read_json(dict);
  check(about.is_object(), dict.string(), ": expected {\"splits\": [...]}, the format of datasets' save_to_disk");
  const auto splits = json_value<std::vector<std::string>>(about, "splits", {}, dict.string());
  std::string names;
  for (const std::string& name : splits) names += (names.empty() ? "" : ", ") + name;
  check(std::ranges::find(splits, split) != splits.end(), folder.string(), ": no data for the split ", split,
        "; the splits it has: ", names);
  return saved_files(folder / split, std::nullopt);
}

}  // namespace kto::detail
