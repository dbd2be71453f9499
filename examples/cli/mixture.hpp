// SPDX-License-Identifier: Apache-2.0
// Which rows a run takes: one data set, or a mixture of several as TRL's DatasetMixtureConfig has it.
#pragma once

#include <pwd.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "kto/data/rows.hpp"
#include "kto/train/option.hpp"

namespace kto {

namespace detail {

/// "~/x" below the home folder, HOME or else that of the user's entry, as Python's expanduser has it; other paths, and
/// those of a user without a home, as they are.
inline std::string expand_home(const std::string& path) {
  if (path != "~" && !path.starts_with("~/")) return path;
  const char* home = std::getenv("HOME");
  if (home == nullptr)
    if (const passwd* user = ::getpwuid(::getuid()); user != nullptr) home = user->pw_dir;
  return home != nullptr ? home + path.substr(1) : path;
}

}  // namespace detail

/// One set of a mixture, with the fields of TRL's DatasetConfig that have a meaning here.
struct MixturePart {
  std::string path;  ///< a folder, a file, a pattern; or json, csv, parquet, where data_files says which
  std::string data_dir = "";
  std::vector<std::string> data_files = {};  ///< of the split, relative to the folder; files or patterns
  std::string split = "train";
  std::vector<std::string> columns = {};  ///< all when empty
  std::optional<double> fraction = std::nullopt;
};

/// Reads the value of `datasets`. Throws UsageError naming the entry and the field.
inline std::vector<MixturePart> parse_mixture(const Json& datasets, bool streaming) {
  std::vector<MixturePart> out;
  for (std::size_t i = 0; i < datasets.size(); ++i) {
    const auto bad = [&](const std::string& field, const auto&... why) {
      throw UsageError(concat("datasets[", i, "]", field.empty() ? "" : ".", field, ": ", why...));
    };
    const auto text = [&](const Json& value, const std::string& field) {
      if (!value.is_string() || value.get_ref<const std::string&>().empty())
        bad(field, "expected a text that is not empty, got ", detail::quoted(value));
      return detail::expand_home(value.get<std::string>());
    };
    const auto texts = [&](const Json& value, const std::string& field) {
      std::vector<std::string> list;
      for (const Json& item : value.is_array() ? value : Json::array({value})) list.push_back(text(item, field));
      if (list.empty()) bad(field, "expected a text or a list of some");
      return list;
    };
    MixturePart part;
    Json files;
    for (const auto& [key, value] : datasets[i].items()) {
      if (value.is_null() && key != "path") continue;
      if (key == "path")
        part.path = text(value, key);
      else if (key == "name") {
        if (value != "default") bad(key, "a folder of files has no configurations; give the folder of one as data_dir");
      } else if (key == "data_dir")
        part.data_dir = text(value, key);
      else if (key == "data_files")
        files = value;
      else if (key == "split") {
        part.split = text(value, key);
        if (part.split.find_first_of("[+") != std::string::npos)
          bad(key, "slices and sums of splits are not supported, got ", detail::quoted(value),
              "; use fraction, or one entry a split");
      } else if (key == "columns")
        part.columns = texts(value, key);
      else if (key == "fraction") {
        if (!value.is_number() || !(value.get<double>() >= 0) || !std::isfinite(value.get<double>()))
          bad(key, "expected a number >= 0, got ", detail::quoted(value));
        part.fraction = value.get<double>();
      } else {
        bad(key, "unknown field; expected path, name, data_dir, data_files, split, columns or fraction");
      }
    }
    if (part.path.empty()) bad("path", "is missing; expected a folder or a file");
    if (files.is_object()) {
      if (!files.contains(part.split)) bad("data_files", "has no files for the split ", part.split);
      files = files[part.split];
    } else if (!files.is_null() && part.split != "train") {
      bad("split", "data_files without names of splits are the split train, not ", part.split);
    }
    if (!files.is_null()) part.data_files = texts(files, "data_files");
    const bool generic = part.path == "json" || part.path == "csv" || part.path == "parquet";
    if (generic && part.data_files.empty() && part.data_dir.empty())
      bad("path", part.path, " needs data_files or data_dir");
    out.push_back(std::move(part));
  }
  const auto num_fractions = std::ranges::count_if(out, [](const auto& part) { return part.fraction.has_value(); });
  if (num_fractions > 0 && static_cast<std::size_t>(num_fractions) < out.size())
    throw UsageError("datasets: fraction must be given for all sets or for none");
  if (num_fractions > 0 && streaming) throw UsageError("datasets: fraction needs all rows, which a stream has not");
  double sum = 0;
  for (const auto& part : out) sum += part.fraction.value_or(0);
  if (num_fractions > 0 && !(sum > 0)) throw UsageError("datasets: the fractions are all 0");
  return out;
}

/// The files of one set of a mixture.
inline std::vector<fs::path> files_of(const MixturePart& part) {
  const bool generic = part.path == "json" || part.path == "csv" || part.path == "parquet";
  fs::path folder = generic ? fs::path() : fs::path(part.path);
  if (!part.data_dir.empty()) folder /= part.data_dir;
  if (part.data_files.empty()) return data_files(folder, part.split);
  std::vector<fs::path> out;
  for (const std::string& name : part.data_files) {
    const fs::path path = folder / name;
    check(!fs::is_directory(path), path.string(), ": is a folder; data_files names files or patterns of files");
    for (const fs::path& file : data_files(path, "train")) out.push_back(file);
  }
  return out;
}

/// The sets of a mixture as files. Where they have fractions, each gives its first rows, as many as make the largest
/// mixture with those shares: TRL's rule.
inline std::vector<RowFiles> mixture_files(const std::vector<MixturePart>& mixture) {
  std::vector<RowFiles> out;
  double sum = 0, total = INFINITY;
  for (const MixturePart& part : mixture) {
    out.push_back({.files = files_of(part), .columns = part.columns});
    sum += part.fraction.value_or(0);
  }
  if (sum == 0) return out;
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::size_t count = 0;
    for (const fs::path& file : out[i].files) count += detail::count_rows(file);
    const double weight = *mixture[i].fraction / sum;
    if (weight > 0) total = std::min(total, static_cast<double>(count) / weight);
  }
  for (std::size_t i = 0; i < out.size(); ++i)
    out[i].max_rows = static_cast<std::size_t>(std::nearbyint(*mixture[i].fraction / sum * total));
  std::erase_if(out, [](const RowFiles& files) { return files.max_rows == 0; });
  return out;
}

}  // namespace kto
