// SPDX-License-Identifier: Apache-2.0
// The configurations of a data set, from the YAML at the top of its README.md, as Hugging Face's datasets reads them
// (datasets/utils/metadata.py).
//   configs:
//   - config_name: en
//     default: true
//     data_files: [{split: train, path: en/*.jsonl}, {split: test, path: en_test.jsonl}]
//   - config_name: de
//     data_dir: de
#pragma once

#include <algorithm>
#include <array>
#include <cctype>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "kto/io/json.hpp"
#include "kto/io/yaml.hpp"

namespace kto {

/// The files of a split: names or patterns.
struct SplitPatterns {
  std::string split;
  std::vector<std::string> patterns;
};

/// Parses `data_files` of a README.md or of load_dataset: a string or a list of strings (the split train), {split:
/// strings}, or a list of {split, path: strings}. Throws Error starting with `where`.
inline std::vector<SplitPatterns> parse_data_files(const Json& value, std::string_view where) {
  const auto expect = [&](bool holds) {
    check(holds, where,
          ": data_files: expected the name of a file or a pattern, a list of them, or a list of {split, path}");
  };
  const auto texts = [&](const Json& list) {
    std::vector<std::string> out;
    for (const Json& item : list.is_array() ? list : Json::array({list})) {
      expect(item.is_string() && !item.get_ref<const std::string&>().empty());
      out.push_back(item.get<std::string>());
    }
    expect(!out.empty());
    return out;
  };
  std::vector<SplitPatterns> out;
  std::unordered_set<std::string> splits;
  const auto add = [&](const std::string& split, const Json& list) {
    check(splits.insert(split).second, where, ": data_files: the split ", split, " is named twice");
    out.push_back({split, texts(list)});
  };
  if (value.is_object()) {
    for (const auto& [split, list] : value.items()) add(split, list);
  } else if (value.is_array() && std::ranges::any_of(value, [](const Json& item) { return item.is_object(); })) {
    for (const Json& item : value) {
      expect(item.is_object() && item.size() == 2 && item.contains("path") && item.contains("split"));
      expect(item["split"].is_string());
      add(item["split"].get<std::string>(), item["path"]);
    }
  } else {
    add("train", value);
  }
  expect(!out.empty());
  return out;
}

namespace detail {

/// One entry of `configs`.
struct DataConfig {
  std::string name;
  bool is_default = false;
  fs::path data_dir = {};
  std::vector<SplitPatterns> data_files = {};  ///< if empty, the names of the files decide
  std::string ignored = {};                    ///< names of other settings, about how to read files
};

/// The YAML at the top of a README.md, and the number of its first line; empty if there is none.
inline std::pair<std::string, int> front_matter(std::string_view text_of_file) {
  std::string lines;  // ending with LF
  for (std::size_t at = 0; at < text_of_file.size(); ++at)
    if (text_of_file.substr(at, 2) != "\r\n") lines += text_of_file[at] == '\r' ? '\n' : text_of_file[at];
  std::string_view readme = lines;
  int line = 1;
  const auto next_line = [&] {
    const std::size_t end = readme.find('\n');
    std::string_view text = readme.substr(0, end);
    readme.remove_prefix(std::min(end, readme.size() - 1) + 1);
    ++line;
    while (text.ends_with(' ') || text.ends_with('\t')) text.remove_suffix(1);
    return text;
  };
  while (!readme.empty() && std::isspace(static_cast<unsigned char>(readme.front())) != 0) {
    line += readme.front() == '\n' ? 1 : 0;
    readme.remove_prefix(1);
  }
  if (readme.empty() || next_line() != "---") return {};
  const int first = line;
  std::string yaml;
  while (!readme.empty()) {
    const std::string_view text = next_line();
    if (text == "---") return {yaml, first};
    yaml.append(text) += '\n';
  }
  return {};
}

/// The configurations named by `folder`/.huggingface.yaml, or else by README.md; empty if neither names any.
inline std::vector<DataConfig> read_configs(const fs::path& folder) {
  std::vector<DataConfig> out;
  for (const char* name : {".huggingface.yaml", "README.md"}) {
    const fs::path file = folder / name;
    if (std::error_code none; !fs::is_regular_file(file, none)) continue;
    std::pair<std::string, int> yaml{read_file(file), 1};
    if (file.extension() == ".md") yaml = front_matter(yaml.first);
    if (yaml.first.find("configs") == std::string::npos) continue;  // works without yaml-cpp, too
    const std::string where = file.string();
    const Json card = parse_yaml(yaml.first, where, yaml.second);
    const auto list = card.is_object() ? card.find("configs") : card.end();
    if (!card.is_object() || list == card.end() || list->is_null() || list->empty()) continue;
    check(list->is_array(), where, ": configs: expected a list of mappings with config_name and data_files");
    std::unordered_map<std::string, std::size_t> last;  // of those with the same name, the last wins
    for (std::size_t i = 0; i < list->size(); ++i)
      if (const Json& item = (*list)[i]; item.is_object() && item.contains("config_name"))
        last[json_as<std::string>(item["config_name"]).value_or("")] = i;
    for (std::size_t i = 0; i < list->size(); ++i) {
      const Json& item = (*list)[i];
      const auto text = [&](const std::string& key) {
        const auto found = item.find(key);
        if (found == item.end() || found->is_null()) return std::string();
        check(found->is_string(), where, ": configs: ", key, ": expected a string");
        return found->get<std::string>();
      };
      check(item.is_object() && !text("config_name").empty(), where,
            ": configs: each needs a config_name, the name of the configuration");
      DataConfig config{.name = text("config_name"), .data_dir = text("data_dir")};
      std::string truth = text("default");
      std::ranges::transform(truth, truth.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
      config.is_default = truth == "true" || truth == "yes" || truth == "on";
      if (const auto files = item.find("data_files"); files != item.end() && !files->is_null())
        config.data_files = parse_data_files(*files, concat(where, ": configs: ", config.name));
      constexpr std::array<std::string_view, 9> known{"config_name", "data_files",  "data_dir",
                                                      "default",     "version",     "description",
                                                      "features",    "drop_labels", "drop_metadata"};
      for (const auto& [key, value] : item.items())
        if (std::ranges::find(known, key) == known.end()) config.ignored += (config.ignored.empty() ? "" : ", ") + key;
      if (last[config.name] == i) out.push_back(std::move(config));
    }
    break;
  }
  return out;
}

/// The configuration called `name`; for an empty name the default: the only one, or the one marked or called default.
/// Throws Error listing the names.
inline const DataConfig& choose_config(const std::vector<DataConfig>& configs, const std::string& name,
                                       std::string_view folder) {
  std::string names;
  std::vector<const DataConfig*> found;
  for (const DataConfig& config : configs) {
    names += (names.empty() ? "" : ", ") + config.name;
    const bool is_default = configs.size() == 1 || config.is_default || config.name == "default";
    if (name.empty() ? is_default : config.name == name) found.push_back(&config);
  }
  check(found.size() < 2, folder, ": README.md marks several configurations as the default; name one of ", names,
        " (--dataset_config)");
  check(found.size() == 1 || name.empty(), folder, ": README.md has no configuration ", name, "; it has ", names);
  check(found.size() == 1, folder, ": README.md has several configurations and none is the default; name one of ",
        names, " (--dataset_config)");
  return *found.front();
}

}  // namespace detail
}  // namespace kto
