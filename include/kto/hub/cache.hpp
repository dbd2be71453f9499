// SPDX-License-Identifier: Apache-2.0
// The hub's cache on this machine, in huggingface_hub's layout, which both write and read:
//   models--owner--name/refs/main                       the commit that a branch or tag was at
//   models--owner--name/snapshots/COMMIT/config.json -> ../../blobs/HASH
//   models--owner--name/blobs/HASH                      a file's content by its hash
//   models--owner--name/trees/COMMIT.json               all files of a commit, if huggingface_hub has listed them
//   models--owner--name/kto/COMMIT.json                 the same, listed by download(); of a list in trees/ that
//                                                       huggingface_hub finds, it wants all files to be there
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

/// The files in a snapshot. A broken link counts: the repository has that file.
inline Paths files_of_snapshot(const fs::path& snapshot) {
  Paths out;
  std::error_code problem, none;
  for (fs::recursive_directory_iterator at(snapshot, problem); !problem && at != fs::recursive_directory_iterator();
       at.increment(problem))
    if (at->is_regular_file(none) || (at->is_symlink(none) && !at->exists(none)))
      out.insert(at->path().lexically_relative(snapshot).string());
  return out;
}

/// Where download() keeps the list of a commit's files.
inline fs::path listing_file(const fs::path& folder, const std::string& commit) {
  return folder / "kto" / (commit + ".json");
}

/// All files of a commit, where they have been listed.
inline std::optional<Paths> listed_files(const fs::path& folder, const std::string& commit) {
  for (const fs::path& list : {folder / "trees" / (commit + ".json"), listing_file(folder, commit)}) {
    std::error_code none;
    if (!fs::is_regular_file(list, none)) continue;
    const Json json = Json::parse(read_file(list), nullptr, false);
    if (!json.is_object() || !json.contains("files") || !json["files"].is_object()) continue;
    Paths out;
    for (const auto& [path, about] : json["files"].items())
      if (is_plain_path(path)) out.insert(path);
    return out;
  }
  return std::nullopt;
}

/// What shards are there: huggingface_hub may have been stopped between them.
struct Shards {
  bool are_all = true;    ///< of each NAME-00000-of-N.parquet there are N
  bool are_files = true;  ///< there are no files of other names
};
inline Shards shards_among(const Paths& paths) {
  Shards out;
  std::map<std::string, std::size_t> count;  // by what shards of one set share
  constexpr std::size_t digits = 5;
  const auto is_number = [](std::string_view text) {
    return text.size() == digits && text.find_first_not_of("0123456789") == text.npos;
  };
  for (const std::string& path : paths) {
    const std::size_t of = path.rfind("-of-");
    const bool is_shard = of != std::string::npos && of >= digits && of + 4 + digits <= path.size() &&
                          is_number(std::string_view(path).substr(of - digits, digits)) &&
                          is_number(std::string_view(path).substr(of + 4, digits));
    if (is_shard) ++count[path.substr(0, of - digits) + path.substr(of)];
    out.are_files = out.are_files && is_shard;
  }
  out.are_all = std::ranges::all_of(count, [](const auto& set) {
    const std::size_t of = set.first.rfind("-of-");
    return set.second == static_cast<std::size_t>(std::atol(set.first.substr(of + 4, digits).c_str()));
  });
  return out;
}

/// Those of a repository's files, `all`, that are wanted, if a snapshot has them.
inline std::optional<Paths> chosen_in(const fs::path& snapshot, const Paths& all, const Wanted& wanted) {
  std::error_code none;
  const auto is_there = [&](const std::string& path) { return fs::is_regular_file(snapshot / path, none); };
  try {
    Paths chosen = wanted.choose(all, snapshot);
    if (std::ranges::all_of(chosen, is_there)) return chosen;
  } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch): a part; what a repository lacks is an error later
  }
  return std::nullopt;
}

}  // namespace detail

/// A snapshot that has all `wanted` files, as far as the cache shows.
struct CachedSnapshot {
  fs::path folder;             ///< with the files
  bool may_lack_data = false;  ///< of a data set: the repository may have more files of the split
};

/// The snapshot in the cache that has all `wanted` files of the repository's revision; none if a file is missing.
inline std::optional<CachedSnapshot> find_snapshot(const Settings& settings, const Repository& repository,
                                                   const Wanted& wanted) {
  const auto commit = cached_commit(settings, repository);
  if (!commit) return std::nullopt;
  const fs::path folder = cache_folder(settings, repository), snapshot = folder / "snapshots" / *commit;
  std::error_code none;
  if (!fs::is_directory(snapshot, none)) return std::nullopt;
  const auto listed = detail::listed_files(folder, *commit);
  const Paths all = listed ? *listed : detail::files_of_snapshot(snapshot);
  auto chosen = detail::chosen_in(snapshot, all, wanted);
  if (!chosen) return std::nullopt;
  CachedSnapshot out{.folder = snapshot};
  if (listed || !wanted.is_data) return out;
  const bool has_card = chosen->contains("README.md");
  std::erase_if(*chosen, wanted.decides);
  const detail::Shards shards = detail::shards_among(*chosen);
  out.may_lack_data = !has_card || !shards.are_files;
  return shards.are_all ? std::optional(out) : std::nullopt;
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
