// SPDX-License-Identifier: Apache-2.0
// Which files to read for a split of a data set, as Hugging Face's load_dataset chooses local files.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/data/detail/data_formats.hpp"
#include "kto/data/detail/dataset_card.hpp"
#include "kto/data/detail/saved_dataset.hpp"
#include "kto/data/detail/split_files.hpp"

namespace kto {

/// The label of tokens that are no part of the completion, in tokenized rows.
inline constexpr std::int64_t default_label_pad_token_id = -100;

/// A data set on disk and which of its rows to read: the arguments of load_dataset.
struct DataSource {
  fs::path path;                               ///< folder, file, pattern of files; or json, csv, parquet, arrow
  std::string split = "train";                 ///< for row_files also slices and sums, as in "train[:10%]+test"
  std::string config = {};                     ///< a configuration in README.md; empty: the default one
  fs::path data_dir = {};                      ///< folder in `path` to read instead
  std::vector<SplitPatterns> data_files = {};  ///< instead of those that README.md and file names imply
};

/// Files to read rows from, and which part of them.
struct RowFiles {
  std::vector<fs::path> files;            ///< read one after another
  std::vector<std::string> columns = {};  ///< only these; all if empty
  std::size_t first_row = 0;              ///< rows before it are skipped
  std::size_t max_rows = SIZE_MAX;        ///< starting there
  /// In tokenized rows, the label in completion_labels of everything but the completion.
  std::int64_t label_pad_token_id = default_label_pad_token_id;
  std::optional<DataFormat> format = {};  ///< of all files; by default, from their names
  std::vector<std::string> notes = {};    ///< messages for the user about the choice of files
  std::string pairs_for = "";             ///< who compares pairs: "the loss dpo". Other rows are then refused
};

namespace detail {

inline std::string joined(const auto& names, std::string_view between = ", ") {
  std::string out;
  for (const auto& name : names) out.append(out.empty() ? "" : between).append(name);
  return out;
}

/// The files in `folder` that match `patterns`, in order of the patterns, sorted within each. A pattern with wildcards
/// skips files that are not data; a plain name must exist.
inline std::vector<fs::path> named_files(const fs::path& folder, const std::vector<std::string>& patterns,
                                         bool any_ending) {
  std::vector<fs::path> files;
  for (const std::string& pattern : patterns) {
    check(pattern.find("://") == std::string::npos, pattern, ": files are read from disk, not from an address; ",
          "download it, and name its folder");
    if (std::error_code none; !is_pattern(pattern) || fs::exists(folder / pattern, none)) {
      const fs::path path = folder / pattern;
      check(!fs::is_directory(path, none), path.string(), ": is a folder; data_files names files or patterns of files");
      check(any_ending || is_data_file(path), path.string(), ": unknown kind of data file; expected ",
            known_data_files);
      files.push_back(path);
      continue;
    }
    for (const fs::path& file : matching_files(folder, pattern))
      if (any_ending || is_data_file(file)) files.push_back(file);
  }
  return files;
}

/// The patterns of one split. Throws Error listing the existing splits.
inline const std::vector<std::string>& patterns_of(const std::vector<SplitPatterns>& data_files,
                                                   const std::string& split, const std::string& where) {
  const auto found = std::ranges::find(data_files, split, &SplitPatterns::split);
  std::string names;
  for (const SplitPatterns& entry : data_files) names += (names.empty() ? "" : ", ") + entry.split;
  check(found != data_files.end(), where, ": no data for the split ", split, "; the splits it has: ", names);
  return found->patterns;
}

/// The files of `split` in `folder`, by their names.
inline std::vector<fs::path> guessed_files(const fs::path& folder, const std::string& split,
                                           std::vector<std::string>& notes) {
  const SplitFiles all(folder);
  auto files = all.of(split);
  const auto splits = all.splits();
  check(!files.empty(), folder.string(), ": no data for the split ", split, "; expected ", split, "*.jsonl or ", split,
        "*.json in this folder", splits.empty() ? "" : "; the splits it has: ", joined(splits));
  for (const fs::path& file : all.all())
    if (const std::string problem = problem_of(file); !problem.empty() && std::ranges::find(files, file) == files.end())
      notes.push_back(concat(file.string(), ": ", problem, "; skipped"));
  return files;
}

/// The files of a source's split: from data_files, from a configuration, or by file names.
inline std::vector<fs::path> folder_files(const DataSource& source, bool any_ending, std::vector<std::string>& notes) {
  const fs::path folder = source.data_dir.empty() ? source.path : source.path / source.data_dir;
  const std::string where = folder.empty() ? "data_files" : folder.string();
  check(folder.empty() || fs::is_directory(folder), where, ": no such folder");
  const auto configs = source.path.empty() ? std::vector<DataConfig>{} : read_configs(source.path);
  check(source.config.empty() || source.config == "default" || !configs.empty(), where, ": there is no configuration ",
        source.config, ": README.md names none; omit --dataset_config");
  const bool is_overridden = !source.data_dir.empty() || !source.data_files.empty();
  const DataConfig* config = configs.empty() || (is_overridden && source.config.empty())
                                 ? nullptr
                                 : &choose_config(configs, source.config, where);
  if (!source.data_files.empty())
    return named_files(folder, patterns_of(source.data_files, source.split, where), any_ending);
  if (is_overridden || config == nullptr)
    return is_saved_dataset(folder) ? saved_split(folder, source.split) : guessed_files(folder, source.split, notes);
  const fs::path inner = config->data_dir.empty() ? folder : folder / config->data_dir;
  const std::string of_config = concat(where, ": README.md, configuration ", config->name);
  if (!config->ignored.empty()) notes.push_back(concat(of_config, ": ignored: ", shortened(config->ignored, 200)));
  check(fs::is_directory(inner), of_config, ": data_dir: no such folder: ", inner.string());
  if (config->data_files.empty()) return guessed_files(inner, source.split, notes);
  const auto& patterns = patterns_of(config->data_files, source.split, of_config);
  auto files = named_files(inner, patterns, false);
  check(!files.empty(), of_config, ": there is no data file for the split ", source.split, ": ", joined(patterns));
  return files;
}

}  // namespace detail

/// The files of `source.split` (a plain name). In a folder, the first of these that applies: `data_files`; the
/// configuration in its README.md (detail/dataset_card.hpp); what save_to_disk wrote; names of files and folders
/// (detail/split_files.hpp: data/train-00000-of-00001.parquet, train/*.jsonl, train*.csv). Of several formats, only the
/// most common is read. A single file, or the files that match a pattern (*, ?, [...], and ** for any folders) in order
/// of their names, are all "train". Throws Error if there is no file, or one that cannot be read.
inline RowFiles data_files(const DataSource& source) {
  const fs::path& path = source.path;
  const std::string where = path.string();
  std::error_code none;
  const fs::file_status status = fs::status(path, none);
  check(!source.split.empty(), where, ": the name of the split is empty; expected one such as train or test");
  RowFiles out;
  constexpr std::array<std::pair<std::string_view, DataFormat>, 4> formats{{{"json", DataFormat::json},
                                                                            {"csv", DataFormat::csv},
                                                                            {"parquet", DataFormat::parquet},
                                                                            {"arrow", DataFormat::arrow}}};
  const auto format = std::ranges::find(formats, where, &std::pair<std::string_view, DataFormat>::first);
  if (format != formats.end() && (!source.data_files.empty() || !source.data_dir.empty())) {
    DataSource inner = source;
    inner.path.clear();
    out.format = format->second;
    out.files = detail::folder_files(inner, true, out.notes);
    if (source.data_files.empty())
      std::erase_if(out.files, [&](const fs::path& file) { return detail::format_of(file) != *out.format; });
  } else if (fs::is_directory(status)) {
    out.files = detail::folder_files(source, false, out.notes);
  } else {
    const bool is_pattern = !fs::exists(status) && detail::is_pattern(path.native());
    const bool is_there = fs::exists(fs::symlink_status(path, none));
    check(is_pattern || is_there, where, ": no such file or folder (expected a .jsonl or .json file, or a folder with ",
          source.split, "*.jsonl)");
    check(source.data_dir.empty() && source.data_files.empty(), where, ": data_dir and data_files need a folder");
    check(source.config.empty(), where, ": a single file has no configurations; omit --dataset_config");
    out.files = is_pattern ? detail::matching_files({}, path) : std::vector<fs::path>{path};
    check(!out.files.empty(), where, ": no file matches");
    for (const fs::path& file : out.files)
      check(detail::is_data_file(file), file.string(), ": unknown kind of data file; expected ",
            detail::known_data_files);
    check(source.split == "train", where, ": a single file holds the split train, not ", source.split,
          "; give a folder with train*.jsonl and ", source.split, "*.jsonl");
  }
  check(!out.files.empty(), where, ": no data file matches for the split ", source.split);
  if (!out.format)
    if (const auto others = detail::keep_one_format(out.files); !others.empty())
      out.notes.push_back(concat(others.front().string(),
                                 others.size() > 1 ? concat(" and ", others.size() - 1, " more files are") : " is",
                                 " skipped: of several formats in a folder only the most common is read, here ",
                                 out.files.front().filename().string(), "'s"));
  std::set<fs::path> seen;
  for (const fs::path& file : out.files) {
    if (!seen.insert(file).second)
      out.notes.push_back(concat(file.string(), ": matches several patterns; its rows are read once for each"));
    const std::string problem = detail::problem_of(file);
    check(problem.empty(), file.string(), ": ", problem);
    check(!detail::is_archive(file), file.string(),
          ": archives are not read; unpack it (unzip) and remove the archive");
  }
  return out;
}

}  // namespace kto
