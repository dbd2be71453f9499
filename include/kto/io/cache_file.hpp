// SPDX-License-Identifier: Apache-2.0
// Tensors kept in a folder under the hash of everything they were made from, one file a key, whole or not at all. A
// changed input is another key, so nothing stale is ever read; a damaged or foreign file, or one that was stored under
// another key, is an Error that says so.
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

/// A kind of cached thing: `format` names it and its version, `tensors` are what such a file holds.
struct CacheFormat {
  std::string format;
  std::vector<std::string> tensors;
};

namespace detail {

/// Of everything in a file, its format and key included.
inline std::string cache_checksum(const std::vector<std::pair<std::string, Tensor>>& tensors,
                                  const TensorMetadata& metadata) {
  ContentHash hash;
  for (const auto& [name, value] : metadata)
    if (name != "checksum") hash.add(name), hash.add(value);
  for (const auto& [name, tensor] : tensors) hash.add(name), hash.add(tensor);
  return hash.hex();
}

}  // namespace detail

inline fs::path cache_path(const fs::path& folder, const std::string& key) { return folder / (key + ".safetensors"); }

/// Whether a file of this name holds what is stored under some key as long as `key`.
inline bool is_cache_file(const std::string& name, const std::string& key) {
  const fs::path path = name;
  const std::string stem = path.stem().string();
  return path.extension() == ".safetensors" && stem.size() == key.size() &&
         stem.find_first_not_of("0123456789abcdef") == std::string::npos;
}

/// Throws the Error of a file that is no cache of its key.
[[noreturn]] inline void refuse_cache(const fs::path& path, const auto&... why) {
  fail(path.string(), ": is not the cache that its name says: ", why..., "; delete it, or choose another cache folder");
}

/// Makes `folder` if it is missing, and throws Error when nothing can be stored under `key` in it. Call it before the
/// work whose result is to be stored.
inline void check_cache_place(const fs::path& folder, const std::string& key) {
  make_folder(folder);
  const fs::path path = cache_path(folder, key);
  std::error_code error;
  check(!fs::is_directory(path, error), path.string(),
        ": is a folder, and a file of the cache belongs there; take it away, or choose another cache folder");
  if (::access(folder.c_str(), W_OK | X_OK) != 0)
    fail(folder.string(), ": cannot be written: ", std::strerror(errno), "; choose another cache folder");
}

/// What a cache holds: the tensors in the order of its format, and their metadata.
struct Cached {
  std::vector<Tensor> tensors;
  TensorMetadata metadata;
};

/// What is stored under `key` in `folder`; nothing where there is nothing. Throws Error, which says why, when the file
/// is damaged or is no cache of this key.
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

/// Stores `tensors`, those of `kind` in its order, and their metadata under `key`. `folder` is made where there
/// is none.
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
