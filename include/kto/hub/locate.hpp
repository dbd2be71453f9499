// SPDX-License-Identifier: Apache-2.0
// From the name of a model or data set, as a user types it, to a folder: one on this machine, or a snapshot in the
// hub's cache, downloaded first if it is not there.
#pragma once

#include <string>

#include "kto/hub/cache.hpp"
#include "kto/hub/download.hpp"
#include "kto/options/option_table.hpp"

namespace kto::hub {

namespace detail {

inline constexpr std::string_view no_model =
    ": is not a folder here; expected one, or the name of a model on the hub with its owner, as in Qwen/Qwen2-0.5B";

/// Why a name leads to nothing, and what to do.
[[noreturn]] inline void refuse_name(const Settings& settings, const Repository& repository, std::string_view why) {
  fail(describe(repository), ": is not a folder here, and not complete in the cache ", settings.cache.string(), "; ",
       why, ", or download it where there is a network: hf download ",
       repository.kind == Kind::dataset ? "--repo-type dataset " : "", repository.id,
       repository.revision == "main" ? "" : " --revision " + repository.revision);
}

}  // namespace detail

/// The folder that `name` means: itself where it exists; else, if it is a repository's id, its snapshot with the
/// `wanted` files, from the cache, or downloaded to it. `note` hears which commit that is. A data set's name of another form
/// is given back: it may be a pattern of files. Throws Error that says what is missing and what to do.
inline fs::path locate(const Repository& named, const Wanted& wanted, const Note& note = {}) {
  const std::string& name = named.id;
  std::error_code none;
  const bool exists = fs::exists(fs::symlink_status(name, none));
  if (exists || !is_id(name)) {
    check(named.revision == "main", name, ": is ", exists ? "on this machine" : "no name on the hub",
          ", where there is no revision ", named.revision, "; leave the revision out");
    check(exists || named.kind == Kind::dataset, name, detail::no_model);
    return name;
  }
  const Settings settings = settings_of_environment();
  const auto found = find_snapshot(settings, named, wanted);
  if (!found && !is_full_id(name)) {
    check(named.kind == Kind::dataset, name, detail::no_model);
    return name;
  }
  std::string forbids;
  if (!can_download)
    forbids =
        "this program is built without libcurl and downloads nothing: build it with libcurl and OpenSSL (Debian's "
        "libcurl4-openssl-dev and libssl-dev)";
  if (settings.offline_data && named.kind == Kind::dataset)
    forbids = "HF_DATASETS_OFFLINE forbids to download it: unset it";
  if (settings.offline) forbids = "HF_HUB_OFFLINE forbids to download it: unset it";
  if (!found && !forbids.empty()) detail::refuse_name(settings, named, forbids);
  const auto say = [&](const auto&... text) {
    if (note) note(concat(name, ": ", text...));
  };
  bool is_cached = found && (!found->may_lack_data || !forbids.empty() || !is_full_id(name));
  fs::path snapshot;
  if (!is_cached) {
    try {
      snapshot = download(settings, named, wanted, note);
    } catch (const NotListed& error) {
      if (!found) throw;
      say("the hub cannot be asked whether the cache has all of it; what it has is taken (", error.what(), ")");
      is_cached = true;
    }
  }
  if (is_cached) snapshot = found->folder;
  say("commit ", snapshot.filename().string().substr(0, 12), is_cached ? ", from the cache" : "");
  return snapshot;
}

/// The data set as files on this machine: of a name on the hub, a folder with the files of its split.
inline DataSource on_disk(DataSource source, const Note& note = {}) {
  const std::string name = source.path.string();
  const bool is_format = name == "json" || name == "csv" || name == "parquet" || name == "arrow";
  if (is_format || kto::detail::is_data_file(name)) return source;
  source.path = locate({.kind = Kind::dataset, .id = name}, dataset_files(source), note);
  return source;
}

}  // namespace kto::hub
