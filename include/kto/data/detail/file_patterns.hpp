// SPDX-License-Identifier: Apache-2.0
// Files under a folder, and files that a pattern matches, as fsspec finds them for Hugging Face's datasets.
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

/// Files about a data set, as datasets leaves them out, and those that a training run leaves (an output folder may lie
/// in the data's, and train_results.json has a word of a split). A pattern may name one.
inline bool is_about_data(const fs::path& path) {
  constexpr std::array<std::string_view, 10> names{
      "README.md",          "config.json",       "dataset_info.json", "dataset_infos.json", "dataset_dict.json",
      "train_results.json", "eval_results.json", "all_results.json",  "trainer_state.json", "training_args.json"};
  return std::ranges::find(names, path.filename().string()) != names.end();
}

/// Hidden files and folders, and folders such as __pycache__, are found only where a pattern names them.
inline bool is_special(const fs::directory_entry& entry) {
  const std::string name = entry.path().filename().string();
  return name.starts_with('.') || (name.starts_with("__") && entry.is_directory());
}

/// What is right in `folder`. Throws Error when that cannot be told.
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
  for (const fs::directory_entry& entry : entries_of(folder))
    if (entry.is_directory() && !entry.is_symlink() && !is_special(entry)) visit_folders(entry.path(), visit);
}

/// Adds the files under `folder` that the names from `part` on match; ** stands for any folders, also for none.
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
    if (!is_last && fs::is_directory(path, none)) find_matches(path, std::next(part), end, found);
    if (is_last && fs::is_regular_file(path, none)) found.insert(path.string());
  };
  if (!is_pattern(name)) return take(folder / *part);
  for (const fs::directory_entry& entry : entries_of(listed)) {
    const std::string file = entry.path().filename().string();
    const bool is_named = name.starts_with("__") || is_last || !file.starts_with("__");
    if (is_named && ::fnmatch(name.c_str(), file.c_str(), FNM_PERIOD | FNM_NOESCAPE) == 0) take(folder / file);
  }
}

/// Files that a path with *, ?, [...] or ** stands for, sorted by path. Throws Error when there are none.
inline std::vector<fs::path> matching_files(const fs::path& pattern) {
  for (const fs::path& part : pattern)
    check(part == "**" || part.string().find("**") == std::string::npos, pattern.string(), ": ** stands beside \"",
          part.string(), "\"; expected it alone between slashes, as in folder/**/*.jsonl");
  std::set<std::string> found;
  find_matches({}, pattern.begin(), pattern.end(), found);
  std::vector<fs::path> files;
  for (const fs::path file : found)
    if (!is_about_data(file) || file.filename() == pattern.filename()) files.push_back(file);
  check(!files.empty(), pattern.string(), ": no file matches");
  return files;
}

}  // namespace kto::detail
