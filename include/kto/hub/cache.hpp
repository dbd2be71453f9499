// SPDX-License-Identifier: Apache-2.0
// The hub's cache on this machine, in huggingface_hub's layout, which both write and read:
//   models--owner--name/refs/main                       the commit that a branch or tag was at
//   models--owner--name/snapshots/COMMIT/config.json -> ../../blobs/HASH
//   models--owner--name/blobs/HASH                      a file's content by its hash
//   models--owner--name/trees/COMMIT.json               all files of a commit, if huggingface_hub has listed them
#pragma once

#include <cstdlib>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "kto/hub/settings.hpp"
#include "kto/hub/wanted.hpp"
#include "kto/io/json.hpp"

namespace kto::hub {

/// The content of CACHEDIR.TAG, for programs that make backups; huggingface_hub's.
inline constexpr std::string_view cache_tag =
    "Signature: 8a477f597d28d172789f06886806bc55\n# This file is a cache directory tag created by huggingface_hub.\n"
    "# For information about cache directory tags, see:\n#\thttps://bford.info/cachedir/\n";

/// Throws Error unless the revision can be a name in the cache and on the hub.
inline void check_revision(const Repository& repository) {
  check(is_plain_path(repository.revision), repository.id, ": the revision \"", repository.revision,
        "\" is no name of a branch, tag or commit");
}

/// The folder of a repository in the cache.
inline fs::path cache_folder(const Settings& settings, const Repository& repository) {
  return settings.cache / cache_name(repository);
}

/// The commit that the cache has for the repository's revision.
inline std::optional<std::string> cached_commit(const Settings& settings, const Repository& repository) {
  check_revision(repository);
  if (is_commit(repository.revision)) return repository.revision;
  const fs::path ref = cache_folder(settings, repository) / "refs" / repository.revision;
  std::error_code none;
  if (!fs::is_regular_file(ref, none)) return std::nullopt;
  std::string commit = read_file(ref);
  while (commit.ends_with('\n')) commit.pop_back();
  return is_commit(commit) ? std::optional(commit) : std::nullopt;
}

namespace detail {

/// The files in a snapshot, broken links not counted.
inline Paths files_of_snapshot(const fs::path& snapshot) {
  Paths out;
  std::error_code problem, none;
  for (fs::recursive_directory_iterator at(snapshot, problem); !problem && at != fs::recursive_directory_iterator();
       at.increment(problem))
    if (at->is_regular_file(none)) out.insert(at->path().lexically_relative(snapshot).string());
  return out;
}

/// All files of a commit, where huggingface_hub has listed them.
inline std::optional<Paths> listed_files(const fs::path& folder, const std::string& commit) {
  const fs::path tree = folder / "trees" / (commit + ".json");
  std::error_code none;
  if (fs::is_regular_file(tree, none)) {
    const Json json = Json::parse(read_file(tree), nullptr, false);
    if (json.is_object() && json.contains("files") && json["files"].is_object()) {
      Paths out;
      for (const auto& [path, about] : json["files"].items())
        if (is_plain_path(path)) out.insert(path);
      return out;
    }
  }
  return std::nullopt;
}

/// Whether of each NAME-00000-of-N.parquet among `paths` there are N: huggingface_hub may have been stopped between
/// them.
inline bool has_all_shards(const Paths& paths) {
  std::map<std::string, std::size_t> count;  // by what shards of one set share
  constexpr std::size_t digits = 5;
  const auto is_number = [](std::string_view text) {
    return text.size() == digits && text.find_first_not_of("0123456789") == text.npos;
  };
  for (const std::string& path : paths) {
    const std::size_t of = path.rfind("-of-");
    if (of == std::string::npos || of < digits || of + 4 + digits > path.size()) continue;
    const std::string_view number = std::string_view(path).substr(of - digits, digits);
    if (is_number(number) && is_number(std::string_view(path).substr(of + 4, digits)))
      ++count[path.substr(0, of - digits) + path.substr(of)];
  }
  return std::ranges::all_of(count, [](const auto& set) {
    const std::size_t of = set.first.rfind("-of-");
    return set.second == static_cast<std::size_t>(std::atol(set.first.substr(of + 4, digits).c_str()));
  });
}

}  // namespace detail

/// The snapshot in the cache that has all `wanted` files of the repository's revision; none if a file is missing.
inline std::optional<fs::path> find_snapshot(const Settings& settings, const Repository& repository,
                                             const Wanted& wanted) {
  const auto commit = cached_commit(settings, repository);
  if (!commit) return std::nullopt;
  const fs::path folder = cache_folder(settings, repository), snapshot = folder / "snapshots" / *commit;
  std::error_code none;
  if (!fs::is_directory(snapshot, none)) return std::nullopt;
  const auto listed = detail::listed_files(folder, *commit);
  const Paths all = listed ? *listed : detail::files_of_snapshot(snapshot);
  const auto is_there = [&](const std::string& path) { return fs::is_regular_file(snapshot / path, none); };
  try {
    const Paths chosen = wanted.choose(all, snapshot);
    const bool is_whole = listed || !wanted.counts_shards || detail::has_all_shards(chosen);
    return is_whole && std::ranges::all_of(chosen, is_there) ? std::optional(snapshot) : std::nullopt;
  } catch (const std::exception&) {  // a part of the files; what the repository lacks is an error when it is listed
    return std::nullopt;
  }
}

/// The repository that `folder`, a snapshot in a cache, is of.
inline std::optional<Repository> repository_of(const fs::path& folder) {
  const fs::path snapshot = folder.has_filename() ? folder : folder.parent_path();
  const fs::path above = snapshot.parent_path();
  const std::string commit = snapshot.filename().string(), name = above.parent_path().filename().string();
  if (above.filename() != "snapshots" || !is_commit(commit)) return std::nullopt;
  for (const auto& [prefix, kind] : {std::pair<std::string, Kind>("models--", Kind::model),
                                     std::pair<std::string, Kind>("datasets--", Kind::dataset)}) {
    if (!name.starts_with(prefix)) continue;
    std::string id = name.substr(prefix.size());
    if (const std::size_t between = id.find("--"); between != std::string::npos) id.replace(between, 2, "/");
    if (is_id(id)) return Repository{.kind = kind, .id = id, .revision = commit};
  }
  return std::nullopt;
}

}  // namespace kto::hub
