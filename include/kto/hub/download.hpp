// SPDX-License-Identifier: Apache-2.0
// Downloads the files that a program needs of a repository into the hub's cache: the commit of a revision, its files,
// the needed ones by four at a time, and when all are there the snapshot's links and the branch's name for it.
// Only in programs that link kto::hub; others read the cache.
#pragma once

#include "kto/hub/cache.hpp"
#include "kto/options/option_table.hpp"

namespace kto::hub {

/// The hub did not list a repository's files.
struct NotListed : Error {
  using Error::Error;
};

}  // namespace kto::hub

#if !defined(KTO_HAS_HUB)

namespace kto::hub {
inline constexpr bool can_download = false;
inline fs::path download(const Settings&, const Repository&, const Wanted&, const Note&) {
  fail("this program is built without libcurl");
}
}  // namespace kto::hub

#else

#include <algorithm>
#include <atomic>
#include <exception>
#include <map>
#include <mutex>
#include <set>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kto/hub/blobs.hpp"
#include "kto/hub/listing.hpp"
#include "kto/io/atomic_file.hpp"

namespace kto::hub {
/// Whether the program links kto::hub.
inline constexpr bool can_download = true;

namespace detail {

/// Downloads `files` into the cache, four at a time. The first failure stops the others.
inline void fetch_all(const Settings& settings, const std::string& token, const Repository& repository,
                      const std::vector<RemoteFile>& files, Progress& progress) {
  const fs::path blobs = cache_folder(settings, repository) / "blobs";
  const fs::path locks = settings.cache / ".locks" / cache_name(repository);
  constexpr std::size_t most_threads = 4;
  std::stop_source stop;
  std::atomic<std::size_t> next = 0;
  std::mutex mutex;
  std::exception_ptr failure;
  const auto work = [&] {
    try {
      const Http http(settings, token, stop.get_token());
      for (std::size_t i = next++; i < files.size() && !stop.stop_requested(); i = next++)
        fetch_blob(http, repository, files[i], blobs, locks, progress);
    } catch (const Stopped&) {  // NOLINT(bugprone-empty-catch): the failure of another thread is the one to report
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
      stop.request_stop();
    }
  };
  std::vector<std::jthread> threads;
  for (std::size_t i = 0; i < std::min(most_threads, files.size()); ++i) threads.emplace_back(work);
  threads.clear();
  if (failure) std::rethrow_exception(failure);
}

/// The commit to download, which is the one that the cache has a part of, and its files.
inline std::pair<std::string, std::map<std::string, RemoteFile> > list(const Http& http, const Repository& repository) {
  const Settings& settings = http.settings();
  std::error_code none;
  try {
    const std::string kept = cached_commit(settings, repository).value_or("");
    if (!kept.empty() && fs::is_directory(cache_folder(settings, repository) / "snapshots" / kept, none)) try {
        return {kept, remote_files(http, repository, kept)};
      } catch (const MissingRevision&) {
        if (kept == repository.revision) throw;  // else the branch has new commits in place of it
      }
    const std::string commit = remote_commit(http, repository);
    return {commit, remote_files(http, repository, commit)};
  } catch (const Unreachable& error) {
    throw NotListed(concat(describe(repository), ": is not a folder here, and not complete in the cache ",
                           settings.cache.string(), "; ", error.what()));
  } catch (const Error& error) {
    throw NotListed(error.what());
  }
}

/// Makes `link` lead to `blob`, by a relative path. On file systems without links the blob moves there, as
/// huggingface_hub has it.
inline void put_link(const fs::path& blob, const fs::path& link) {
  make_folder(link.parent_path());
  const fs::path target = blob.lexically_relative(link.parent_path());
  std::error_code problem;
  if (fs::is_symlink(fs::symlink_status(link, problem)) && fs::read_symlink(link, problem) == target) return;
  const fs::path temporary = concat(link.string(), ".tmp", ::getpid());
  fs::remove(temporary, problem);
  fs::create_symlink(target, temporary, problem);
  fs::rename(problem ? blob : temporary, link);
}

}  // namespace detail

/// Downloads the `wanted` files of a repository into the cache, and returns its snapshot. What is there already is not
/// downloaded again; an existing snapshot of the revision is completed. Until all files are there, the snapshot has none
/// of them. Throws Error that says what is wrong, where, and what to do: NotListed before anything is downloaded.
inline fs::path download(const Settings& settings, const Repository& repository, const Wanted& wanted,
                         const Note& note) {
  check_revision(repository);
  const std::string token = settings.sends_token ? read_token(settings) : "";
  const Http http(settings, token);
  const fs::path folder = cache_folder(settings, repository);
  std::error_code none;
  const auto [commit, remote] = detail::list(http, repository);
  const fs::path snapshot = folder / "snapshots" / commit;
  Paths all;
  for (const auto& [path, file] : remote) all.insert(path);

  const auto keep_list = [&] {
    Json list = Json::object();
    for (const std::string& path : all) list[path] = Json::object();
    make_folder(folder / "kto");
    write_file(detail::listing_file(folder, commit), Json{{"files", list}}.dump() + "\n");
    const fs::path ref = folder / "refs" / repository.revision;
    if (repository.revision == commit || (fs::exists(ref, none) && read_file(ref) == commit)) return;
    make_folder(ref.parent_path());
    write_file(ref, commit);
  };
  if (detail::chosen_in(snapshot, all, wanted)) {
    try {
      keep_list();
    } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch): the cache is only read; the hub is asked again
    }
    return snapshot;
  }

  check_folder(folder, "the hub's cache (HF_HUB_CACHE)");
  make_folder(folder / "blobs");
  if (const fs::path tag = settings.cache / "CACHEDIR.TAG"; !fs::exists(tag, none)) write_file(tag, cache_tag);
  const auto fetch = [&](const Paths& paths) {
    std::vector<RemoteFile> files;
    std::set<std::string> hashes;
    std::uint64_t total = 0, lacking = 0;
    for (const std::string& path : paths) {
      const auto found = remote.find(path);
      check(found != remote.end(), describe(repository), ": has no file ", path, ", which another of its files names");
      if (!hashes.insert(found->second.hash).second) continue;  // two files with one content
      files.push_back(found->second);
      total += found->second.size;
      if (!fs::exists(folder / "blobs" / files.back().hash, none)) lacking += found->second.size;
    }
    const std::uint64_t space = fs::space(folder, none).available;
    check(none || lacking <= space, settings.cache.string(), ": ", describe(repository), " needs ",
          bytes_text(static_cast<double>(lacking)), ", and the disk has ", bytes_text(static_cast<double>(space)),
          " left; free some, or name a folder on another disk with HF_HUB_CACHE");
    if (note && lacking > 1000000)
      note(concat("downloading ", bytes_text(static_cast<double>(lacking)), " of ", describe(repository), " from ",
                  settings.endpoint));
    Progress progress("download", total, settings.shows_bar);
    detail::fetch_all(settings, token, repository, files, progress);
    if (note && progress.received() > 1000000)
      note(concat("downloaded ", bytes_text(static_cast<double>(progress.received())), " in ",
                  static_cast<std::int64_t>(progress.seconds()), " s, ",
                  bytes_text(static_cast<double>(progress.received()) / progress.seconds()), "/s"));
  };
  Paths deciding;
  for (const std::string& path : all)
    if (wanted.decides(path)) deciding.insert(path);
  fetch(deciding);
  Paths chosen;
  try {
    const detail::Shadow files(deciding,
                               [&](const std::string& path) { return folder / "blobs" / remote.at(path).hash; });
    chosen = wanted.choose(all, files.path());
    std::ranges::for_each(chosen, wanted.check_readable);
  } catch (const Error& error) {
    fail(describe(repository), " at ", settings.endpoint, ": ", error.what());
  }
  fetch(chosen);
  const Uninterrupted whole;
  make_folder(snapshot);
  for (const std::string& path : chosen) detail::put_link(folder / "blobs" / remote.at(path).hash, snapshot / path);
  keep_list();
  return snapshot;
}

}  // namespace kto::hub
#endif
