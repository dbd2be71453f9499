// SPDX-License-Identifier: Apache-2.0
// Which rows a run takes: one data set, or a mixture of several as TRL's DatasetMixtureConfig has it.
#pragma once

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "kto/cli/hub_names.hpp"
#include "kto/data/rows.hpp"
#include "kto/io/home.hpp"
#include "kto/options/option.hpp"

namespace kto::cli {

/// One set of a mixture: TRL's DatasetConfig.
struct MixturePart {
  DataSource source;
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
      return value.get<std::string>();
    };
    MixturePart part;
    DataSource& source = part.source;
    for (const auto& [key, value] : datasets[i].items()) {
      if (value.is_null() && key != "path") continue;
      if (key == "path")
        source.path = expand_home(text(value, key));
      else if (key == "name" || key == "config") {
        const std::string name = text(value, key);
        if (!source.config.empty() && source.config != name) bad(key, "name and config both name the configuration");
        source.config = name;
      } else if (key == "data_dir")
        source.data_dir = expand_home(text(value, key));
      else if (key == "split")
        source.split = text(value, key);
      else if (key == "columns") {
        for (const Json& item : value.is_array() ? value : Json::array({value}))
          part.columns.push_back(text(item, key));
        if (part.columns.empty()) bad(key, "expected a text or a list of some");
      } else if (key == "fraction") {
        if (!value.is_number() || !(value.get<double>() >= 0) || !std::isfinite(value.get<double>()))
          bad(key, "expected a number >= 0, got ", detail::quoted(value));
        part.fraction = value.get<double>();
      } else if (key != "data_files") {
        bad(key, "unknown field; expected path, name, data_dir, data_files, split, columns or fraction");
      }
    }
    try {
      const auto slices = detail::parse_split(source.split);
      if (const auto files = datasets[i].find("data_files"); files != datasets[i].end() && !files->is_null()) {
        source.data_files = parse_data_files(*files, concat("datasets[", i, "]"));
        for (SplitPatterns& entry : source.data_files)
          for (std::string& pattern : entry.patterns) pattern = expand_home(pattern);
        for (const auto& slice : slices)
          if (std::ranges::find(source.data_files, slice.split, &SplitPatterns::split) == source.data_files.end())
            bad("data_files", "has no files for the split ", slice.split);
      }
    } catch (const UsageError&) {
      throw;
    } catch (const Error& error) {
      throw UsageError(concat("datasets[", i, "]: ", error.what()));
    }
    if (source.path.empty()) bad("path", "is missing; expected a folder or a file");
    const bool generic = source.path == "json" || source.path == "csv" || source.path == "parquet";
    if (generic && source.data_files.empty() && source.data_dir.empty())
      bad("path", source.path.string(), " needs data_files or data_dir");
    out.push_back(std::move(part));
  }
  const auto num_fractions = std::ranges::count_if(out, [](const auto& part) { return part.fraction.has_value(); });
  if (num_fractions > 0 && static_cast<std::size_t>(num_fractions) < out.size())
    throw UsageError("datasets: fraction must be given for all sets or for none");
  if (num_fractions > 0 && streaming)
    throw UsageError("datasets: fraction needs all rows, which a stream does not have");
  double sum = 0;
  for (const auto& part : out) sum += part.fraction.value_or(0);
  if (num_fractions > 0 && !(sum > 0)) throw UsageError("datasets: the fractions are all 0");
  return out;
}

/// The sets of a mixture as files. Where they have fractions, each gives its first rows, as many as make the largest
/// mixture with those shares: TRL's rule.
inline std::vector<RowFiles> mixture_files(const std::vector<MixturePart>& mixture, const Note& note = {}) {
  std::vector<std::vector<RowFiles>> sets;
  double sum = 0, total = INFINITY;
  for (const MixturePart& part : mixture) {
    sets.push_back(row_files(hub::on_disk(part.source, note)));
    for (RowFiles& files : sets.back()) files.columns = part.columns;
    sum += part.fraction.value_or(0);
  }
  if (sum > 0) {
    std::vector<std::vector<std::size_t>> counts(sets.size());
    for (std::size_t i = 0; i < sets.size(); ++i) {
      std::size_t count = 0;
      for (const RowFiles& files : sets[i]) count += counts[i].emplace_back(count_rows(files));
      const double weight = *mixture[i].fraction / sum;
      if (weight > 0) total = std::min(total, static_cast<double>(count) / weight);
    }
    for (std::size_t i = 0; i < sets.size(); ++i) {
      auto rest = static_cast<std::size_t>(std::nearbyint(*mixture[i].fraction / sum * total));
      for (std::size_t k = 0; k < sets[i].size(); ++k) rest -= sets[i][k].max_rows = std::min(rest, counts[i][k]);
    }
  }
  std::vector<RowFiles> out;
  for (auto& set : sets)
    for (RowFiles& files : set)
      if (files.max_rows > 0) out.push_back(std::move(files));
  return out;
}

}  // namespace kto::cli
