// SPDX-License-Identifier: Apache-2.0
// Lists the files under a folder and the files that match a pattern, as fsspec does for Hugging Face's datasets.
#pragma once

#include <fnmatch.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "kto/io/file.hpp"

namespace kto::detail {

inline bool is_pattern(std::string_view path) { return path.find_first_of("*?[") != std::string_view::npos; }

/// Files to skip unless a pattern names them: files about a data set, as in datasets, and files of a training run (an
/// output folder may be inside the data folder, and train_results.json contains the name of a split).
inline bool is_about_data(const fs::path& path) {
  constexpr std::array<std::string_view, 12> names{"README.md",          "config.json",        "dataset_info.json",
                                                   "dataset_infos.json", "dataset_dict.json",  "dummy_data.zip",
                                                   "train_results.json", "eval_results.json",  "all_results.json",
                                                   "trainer_state.json", "training_args.json", "state.json"};
  return std::ranges::find(names, path.filename().string()) != names.end();
}

/// Hidden files and folders, and folders such as __pycache__, are found only if a pattern names them.
inline bool is_special(const fs::directory_entry& entry) {
  std::error_code none;
  const std::string name = entry.path().filename().string();
  return name.starts_with('.') || (name.starts_with("__") && entry.is_directory(none));
}

/// Why `path` cannot be read as a file or a folder, such as a link to nothing or to itself; empty if it can.
inline std::string problem_of(const fs::path& path) {
  std::error_code problem;
  const fs::file_status status = fs::status(path, problem);
  if (fs::is_regular_file(status) || fs::is_directory(status)) return {};
  if (fs::exists(status)) return "is not a file but a FIFO, device or socket";
  const bool is_link = fs::is_symlink(fs::symlink_status(path, problem));
  return is_link ? "is a broken symbolic link" : "is not a file";
}

/// The entries of `folder` itself. Throws Error if it cannot be read.
inline std::vector<fs::directory_entry> entries_of(const fs::path& folder) {
  std::error_code problem;
  fs::directory_iterator at(folder, problem);
  std::vector<fs::directory_entry> entries;
  for (; !problem && at != fs::directory_iterator(); at.increment(problem)) entries.push_back(*at);
  check(!problem, folder.string(), ": the folder cannot be read: ", problem.message());
  return entries;
}

/// Calls visit(path) for `folder` and all folders in it, at any depth; links to folders are not followed.
template <class Visit>
void visit_folders(const fs::path& folder, const Visit& visit) {
  visit(folder);
  std::error_code none;
  for (const fs::directory_entry& entry : entries_of(folder))
    if (entry.is_directory(none) && !entry.is_symlink(none) && !is_special(entry)) visit_folders(entry.path(), visit);
}

/// Adds the files under `folder` that match the rest of the pattern from `part` on, including those with a problem_of.
/// ** matches any number of folders, including none.
inline void find_matches(const fs::path& folder, fs::path::const_iterator part, fs::path::const_iterator end,
                         std::set<std::string>& found) {
  const std::string name = part->string();
  const bool is_last = std::next(part) == end;
  const fs::path listed = folder.empty() ? "." : folder;
  if (name == "**") {
    static const fs::path any = "*";
    return visit_folders(listed, [&](const fs::path& inner) {
      is_last ? find_matches(inner, any.begin(), any.end(), found) : find_matches(inner, std::next(part), end, found);
    });
  }
  const auto take = [&](const fs::path& path) {
    std::error_code none;
    const bool is_folder = fs::is_directory(path, none);
    if (!is_last && is_folder) find_matches(path, std::next(part), end, found);
    if (is_last && !is_folder && fs::symlink_status(path, none).type() != fs::file_type::not_found)
      found.insert(path.string());
  };
  if (!is_pattern(name)) return take(folder / *part);
  for (const fs::directory_entry& entry : entries_of(listed)) {
    const std::string file = entry.path().filename().string();
    const bool is_named = name.starts_with("__") || is_last || !file.starts_with("__");
    if (is_named && ::fnmatch(name.c_str(), file.c_str(), FNM_PERIOD | FNM_NOESCAPE) == 0) take(folder / file);
  }
}

/// The files under `folder` that match `pattern`, a path with *, ?, [...] or **, sorted by path. Throws Error if ** is
/// only a part of a name.
inline std::vector<fs::path> matching_files(const fs::path& folder, const fs::path& pattern) {
  for (const fs::path& part : pattern)
    check(part == "**" || part.string().find("**") == std::string::npos, pattern.string(), ": ** is next to \"",
          part.string(), "\"; expected it alone between slashes, as in folder/**/*.jsonl");
  std::set<std::string> found;
  find_matches(pattern.is_absolute() ? fs::path() : folder, pattern.begin(), pattern.end(), found);
  std::vector<fs::path> files;
  for (const fs::path file : found)
    if (!is_about_data(file) || file.filename() == pattern.filename()) files.push_back(file);
  return files;
}

}  // namespace kto::detail
