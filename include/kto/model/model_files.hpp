// SPDX-License-Identifier: Apache-2.0
// The files around a model's weights, kept in memory as they were when the model was loaded: a run saves the files it
// was trained with, even if the folder has changed since.
#pragma once

#include <concepts>
#include <map>
#include <string>

#include "kto/io/json.hpp"
#include "kto/text/tokenizer_config.hpp"

namespace kto {

/// The existing config.json, generation_config.json, tokenizer files and chat templates of a folder.
class ModelFiles {
 public:
  ModelFiles() = default;
  /// Reads the files of a folder. Implicit, so that a path can be passed for its current files.
  template <std::convertible_to<fs::path> Folder>
  ModelFiles(const Folder& path) : folder_(path) {
    for (const char* name : {"config.json", "generation_config.json"})
      if (fs::is_regular_file(folder_ / name)) texts_[name] = read_file(folder_ / name);
    for (const fs::path& name : tokenizer_files(folder_)) texts_[name.string()] = read_file(folder_ / name);
  }

  const fs::path& folder() const { return folder_; }
  bool has(const std::string& name) const { return texts_.contains(name); }
  /// Contents by name, relative to the folder.
  const std::map<std::string, std::string>& texts() const { return texts_; }

  /// The object in a JSON file. Throws Error naming the file if it is absent or malformed.
  Json object(const std::string& name) const {
    const std::string where = (folder_ / name).string();
    check(has(name), where, ": is missing");
    Json out = parse_json(texts_.at(name), where);
    check(out.is_object(), where, ": expected an object");
    return out;
  }

 private:
  fs::path folder_;
  std::map<std::string, std::string> texts_;
};

}  // namespace kto
