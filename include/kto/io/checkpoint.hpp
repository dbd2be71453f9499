// SPDX-License-Identifier: Apache-2.0
// The weights of a model folder, in transformers' layout: model.safetensors, or shards
// model-00001-of-0000N.safetensors listed in model.safetensors.index.json.
#pragma once

#include <cstdio>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kto/io/safetensors.hpp"

namespace kto {

/// Several files that are replaced together: none is renamed until all are written.
class AtomicFiles {
 public:
  AtomicFile& add(const fs::path& path) { return *files_.emplace_back(std::make_unique<AtomicFile>(path)); }
  void commit() {
    for (const auto& file : files_) file->commit();
    files_.clear();
  }

 private:
  std::vector<std::unique_ptr<AtomicFile>> files_;
};

/// The weights of a model folder, in one file or in shards. The files themselves decide which tensors exist, not the
/// index: it may list a tied head that no shard has. Throws Error naming the folder or file and what is wrong.
class Checkpoint {
 public:
  explicit Checkpoint(const fs::path& folder, const std::string& stem = "model") {
    const fs::path single = folder / (stem + ".safetensors");
    const fs::path index = folder / (stem + ".safetensors.index.json");
    if (fs::exists(single))
      add(single);
    else if (fs::exists(index))
      read_index(index);
    else
      refuse(folder, single, stem);
  }

  const std::vector<std::string>& names() const { return names_; }
  bool contains(const std::string& name) const { return place_.contains(name); }

  /// See SafetensorsFile::tensor.
  Tensor tensor(const std::string& name) const {
    const auto found = place_.find(name);
    check(found != place_.end(), files_.front().path(), ": has no tensor \"", name, '"');
    return files_[found->second].tensor(name);
  }
  /// The same as a view of the mapped file, which must not be written to; see MappedFile.
  Tensor mapped(const std::string& name) const {
    const auto found = place_.find(name);
    check(found != place_.end(), files_.front().path(), ": has no tensor \"", name, '"');
    maps_.resize(files_.size());
    auto& whole = maps_[found->second];
    if (!whole) whole = std::make_shared<const MappedFile>(files_[found->second].path());
    return files_[found->second].view(name, whole);
  }
  /// Throws Error if a file that is mapped was written to since.
  void check_unchanged() const {
    for (const auto& whole : maps_)
      if (whole) whole->check_unchanged();
  }

 private:
  void add(const fs::path& path) {
    const SafetensorsFile& file = files_.emplace_back(path);
    for (const std::string& name : file.names()) {
      const auto [other, is_new] = place_.emplace(name, files_.size() - 1);
      check(is_new, file.path(), ": tensor \"", name, "\" is also in ", files_[other->second].path());
      names_.push_back(name);
    }
  }

  void read_index(const fs::path& path) {
    const Json index = read_json(path);
    check(index.is_object() && index.contains("weight_map") && index["weight_map"].is_object() &&
              !index["weight_map"].empty(),
          path.string(), ": has no \"weight_map\" {tensor: file}");
    std::unordered_map<std::string, std::size_t> shards;
    for (const auto& [name, shard] : index["weight_map"].items()) {
      check(shard.is_string(), path.string(), ": the file of \"", name, "\" is not a string");
      const auto file = shard.get<std::string>();
      if (shards.contains(file)) continue;
      check(!file.empty() && fs::path(file).filename() == file, path.string(), ": \"", file,
            "\" is not a file name: shards are in the folder of the index");
      check(fs::exists(path.parent_path() / file), path.string(), ": shard ", file, " is missing (it holds \"", name,
            "\")");
      shards.emplace(file, files_.size());
      add(path.parent_path() / file);
    }
  }

  [[noreturn]] static void refuse(const fs::path& folder, const fs::path& single, const std::string& stem) {
    const fs::path adapter = folder / (stem + ".bin");
    check(stem != "adapter_model" || !fs::exists(adapter), adapter.string(),
          ": pickled weights are not read; convert them, in Python: import torch, safetensors.torch as s; "
          "s.save_file({k: v.contiguous().clone() for k, v in torch.load('",
          adapter.string(), "', 'cpu', weights_only=True).items()}, '", single.string(), "')");
    for (const char* name : {"pytorch_model.bin", "pytorch_model.bin.index.json"})
      check(!fs::exists(folder / name), (folder / name).string(),
            ": pickled weights are not read; convert them, in Python: "
            "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW_DIR)");
    fail(single.string(), ": is missing, and so is ", single.filename().string(), ".index.json");
  }

  std::vector<SafetensorsFile> files_;
  std::vector<std::string> names_;
  std::unordered_map<std::string, std::size_t> place_;
  mutable std::vector<std::shared_ptr<const MappedFile>> maps_;  ///< of files_, where mapped() was asked
};

namespace detail {

/// "model-00001-of-00003.safetensors" for (stem "model", number 1, count 3); "model.safetensors" if count is 1.
inline std::string shard_name(const std::string& stem, std::size_t number, std::size_t count) {
  char suffix[64] = "";
  if (count > 1) std::snprintf(suffix, sizeof suffix, "-%05zu-of-%05zu", number, count);
  return stem + suffix + ".safetensors";
}

/// Whether shard_name gives this name for some count above 1.
inline bool is_shard_name(const std::string& stem, std::string_view name) {
  constexpr std::string_view pattern = "-00000-of-00000.safetensors";
  if (!name.starts_with(stem) || name.size() != stem.size() + pattern.size()) return false;
  return std::ranges::equal(name.substr(stem.size()), pattern,
                            [](char c, char p) { return p == '0' ? c >= '0' && c <= '9' : c == p; });
}

}  // namespace detail

inline constexpr std::int64_t default_shard_size = 5'000'000'000;

/// Writes weights into `files` in the layout of a model folder: one file, or shards of at most `max_shard_size` bytes
/// (a larger tensor gets a shard of its own) and their index. Returns the names of the files.
inline std::vector<std::string> write_checkpoint(AtomicFiles& files, const fs::path& folder,
                                                 const std::vector<std::pair<std::string, Tensor>>& tensors,
                                                 std::int64_t max_shard_size = default_shard_size,
                                                 const std::string& stem = "model") {
  std::vector<std::vector<std::pair<std::string, Tensor>>> shards(1);
  std::int64_t shard_size = 0, total_size = 0;
  for (const auto& item : detail::without_shared(tensors)) {
    const auto size = static_cast<std::int64_t>(item.second.nbytes());
    if (shard_size + size > max_shard_size && !shards.back().empty()) {
      shards.emplace_back();
      shard_size = 0;
    }
    shards.back().push_back(item);
    shard_size += size;
    total_size += size;
  }
  std::vector<std::string> written;
  std::map<std::string, std::string> weight_map;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const auto& name = written.emplace_back(detail::shard_name(stem, i + 1, shards.size()));
    write_safetensors(files.add(folder / name), shards[i]);
    for (const auto& item : shards[i]) weight_map[item.first] = name;
  }
  if (shards.size() > 1) {
    const Json index = {{"metadata", {{"total_size", total_size}}}, {"weight_map", weight_map}};
    files.add(folder / written.emplace_back(stem + ".safetensors.index.json")).write(index.dump(2) + "\n");
  }
  return written;
}

/// Whether write_checkpoint could give a file this name.
inline bool is_weights_file(std::string_view name, const std::string& stem = "model") {
  return name == stem + ".safetensors" || name == stem + ".safetensors.index.json" || detail::is_shard_name(stem, name);
}

/// Removes weights of an earlier save that are not among `written`, since a reader might prefer them, and temporary
/// files that a killed save left.
inline void remove_stale_weights(const fs::path& folder, const std::vector<std::string>& written,
                                 const std::string& stem = "model") {
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (is_weights_file(name, stem) && std::ranges::find(written, name) == written.end()) fs::remove(entry.path());
  }
  remove_stale_temporaries(folder, [&](const std::string& name) { return is_weights_file(name, stem); });
}

/// Saves weights into an existing folder. The old weights stay until all new ones are written.
inline void save_checkpoint(const fs::path& folder, const std::vector<std::pair<std::string, Tensor>>& tensors,
                            std::int64_t max_shard_size = default_shard_size, const std::string& stem = "model") {
  AtomicFiles files;
  const auto written = write_checkpoint(files, folder, tensors, max_shard_size, stem);
  files.commit();
  remove_stale_weights(folder, written, stem);
}

}  // namespace kto
