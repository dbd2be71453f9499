// SPDX-License-Identifier: Apache-2.0
// A cache of tensors in a folder, one file per key, written atomically. The key is a hash of all inputs, so a changed
// input has a new key and nothing stale is read. A file that is damaged, foreign or stored under another key is an
// Error.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kto/io/content_hash.hpp"
#include "kto/io/folder.hpp"
#include "kto/io/safetensors.hpp"

namespace kto {

/// A kind of cache file: `format` is its name and version, `tensors` are the names of what it holds.
struct CacheFormat {
  std::string format;
  std::vector<std::string> tensors;
};

namespace detail {

/// Covers everything in a file, including its format and key.
inline std::string cache_checksum(const std::vector<std::pair<std::string, Tensor>>& tensors,
                                  const TensorMetadata& metadata) {
  ContentHash hash;
  for (const auto& [name, value] : metadata)
    if (name != "checksum") {
      hash.add(name);
      hash.add(value);
    }
  for (const auto& [name, tensor] : tensors) {
    hash.add(name);
    hash.add(tensor);
  }
  return hash.hex();
}

}  // namespace detail

inline fs::path cache_path(const fs::path& folder, const std::string& key) { return folder / (key + ".safetensors"); }

/// Whether `name` is the name of a cache file for a key as long as `key`.
inline bool is_cache_file(const std::string& name, const std::string& key) {
  const fs::path path = name;
  const std::string stem = path.stem().string();
  return path.extension() == ".safetensors" && stem.size() == key.size() &&
         stem.find_first_not_of("0123456789abcdef") == std::string::npos;
}

/// Throws the Error of a file that does not match its name.
[[noreturn]] inline void refuse_cache(const fs::path& path, const auto&... why) {
  fail(path.string(), ": does not match its name: ", why..., "; delete it, or choose another cache folder");
}

/// Creates `folder` if it is missing. Throws Error if nothing can be stored under `key` in it. Call it before the work
/// whose result will be stored.
inline void check_cache_place(const fs::path& folder, const std::string& key) {
  make_folder(folder);
  const fs::path path = cache_path(folder, key);
  std::error_code error;
  check(!fs::is_directory(path, error), path.string(),
        ": is a folder, expected a cache file; remove it, or choose another cache folder");
  if (::access(folder.c_str(), W_OK | X_OK) != 0)
    fail(folder.string(), ": cannot be written: ", std::strerror(errno), "; choose another cache folder");
}

/// The content of a cache file: the tensors in the order of its format, and their metadata.
struct Cached {
  std::vector<Tensor> tensors;
  TensorMetadata metadata;
};

/// What is stored under `key` in `folder`, or nothing. Throws Error if the file is damaged or belongs to another key.
inline std::optional<Cached> read_cache(const fs::path& folder, const std::string& key, const CacheFormat& kind) {
  const fs::path path = cache_path(folder, key);
  std::error_code none;
  if (fs::status(path, none).type() == fs::file_type::not_found) return std::nullopt;
  const SafetensorsFile file(path);
  const TensorMetadata& metadata = file.metadata();
  const auto entry = [&](const char* name) {
    const auto found = metadata.find(name);
    return found == metadata.end() ? std::string("none") : found->second;
  };
  if (entry("kto") != kind.format) refuse_cache(path, "its format is ", entry("kto"));
  if (entry("key") != key) refuse_cache(path, "its key is ", entry("key"));
  std::vector<std::pair<std::string, Tensor>> tensors;
  Cached out{{}, metadata};
  for (const std::string& name : kind.tensors) {
    if (!file.contains(name)) refuse_cache(path, "it has no ", name);
    out.tensors.push_back(tensors.emplace_back(name, file.tensor(name)).second);
  }
  if (entry("checksum") != detail::cache_checksum(tensors, metadata)) refuse_cache(path, "its content is damaged");
  return out;
}

/// Stores `tensors`, in the order of `kind`, and their metadata under `key`. Creates `folder` if it is missing.
inline void write_cache(const fs::path& folder, const std::string& key, const CacheFormat& kind,
                        const std::vector<std::pair<std::string, Tensor>>& tensors, TensorMetadata metadata = {}) {
  metadata["kto"] = kind.format;
  metadata["key"] = key;
  metadata["checksum"] = detail::cache_checksum(tensors, metadata);
  make_folder(folder);
  remove_stale_temporaries(folder, [&](const std::string& name) { return is_cache_file(name, key); });
  save_safetensors(cache_path(folder, key), tensors, metadata);
}

}  // namespace kto
