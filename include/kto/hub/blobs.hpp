// SPDX-License-Identifier: Apache-2.0
// One file of a repository, downloaded into the cache's blobs: under the lock that huggingface_hub takes for it,
// resumed where an earlier download ended, and renamed into place when its hash is the one it is named by. In programs
// that link kto::hub.
#pragma once

#if defined(KTO_HAS_HUB)
#include <sys/file.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "kto/hub/answer.hpp"
#include "kto/hub/digest.hpp"
#include "kto/hub/progress.hpp"
#include "kto/io/folder.hpp"

namespace kto::hub {

/// A file of a repository, as the hub lists it.
struct RemoteFile {
  std::string path;        ///< in the repository
  std::string url;         ///< where it is downloaded from
  std::uint64_t size = 0;  ///< bytes
  std::string hash;        ///< the blob's name: SHA-256 of a large file, git's SHA-1 of others
  /// Whether it is in the hub's storage for large files.
  bool is_large() const { return hash.size() == 64; }
};

namespace detail {

/// The lock of one blob, which huggingface_hub's FileLock honours: flock on a file that stays.
class BlobLock {
 public:
  BlobLock(const fs::path& path, const std::stop_token& stop) : handle_(open(path)) {
    for (;;) {
      if (::flock(handle_.get(), LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;  // some systems have no locks
      http::wait(0.1, stop);
    }
  }

 private:
  static FileHandle open(const fs::path& path) {
    make_folder(path.parent_path());
    return FileHandle(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0664);
  }
  FileHandle handle_;
};

/// A file that grows until it has all bytes of `file`, with the hash of those it has.
class PartialFile {
 public:
  PartialFile(fs::path path, const RemoteFile& file, Progress& progress)
      : path_(std::move(path)), file_(file), progress_(progress), handle_(path_, O_RDWR | O_CREAT | O_NOFOLLOW) {
    std::string held;
    for (FileReader reader(path_); reader.read(held, 1 << 20); held.clear()) take(held, /*received=*/false);
    if (size_ > file_.size) clear();
  }

  std::uint64_t size() const { return size_; }
  void clear() {
    if (::ftruncate(handle_.get(), 0) != 0) fail(path_.string(), ": cannot be written: ", std::strerror(errno));
    progress_.add(-static_cast<std::int64_t>(size_), false);
    size_ = 0;
    digest_ = new_digest();
  }
  void append(std::string_view bytes) {
    if (size_ + bytes.size() > file_.size)
      fail(file_.path, ": the server sends more than the ", file_.size, " bytes that it lists; try again later");
    if (::lseek(handle_.get(), static_cast<off_t>(size_), SEEK_SET) < 0) fail(path_.string(), ": cannot be written");
    kto::append(handle_, path_, bytes);
    take(bytes, /*received=*/true);
  }
  bool has_right_hash() { return digest_.hex() == file_.hash; }
  void rename_to(const fs::path& blob) {
    if (::fsync(handle_.get()) != 0) fail(path_.string(), ": cannot be written: ", std::strerror(errno));
    fs::rename(path_, blob);
  }

 private:
  Digest new_digest() const { return file_.is_large() ? Digest::sha256() : Digest::git_blob(file_.size); }
  void take(std::string_view bytes, bool received) {
    digest_.add(bytes);
    size_ += bytes.size();
    progress_.add(static_cast<std::int64_t>(bytes.size()), received);
  }

  fs::path path_;
  const RemoteFile& file_;
  Progress& progress_;
  FileHandle handle_;
  std::uint64_t size_ = 0;
  Digest digest_ = new_digest();
};

/// Receives what `part` lacks of `file`.
inline void receive(const Http& http, const Repository& repository, const RemoteFile& file, PartialFile& part) {
  const std::uint64_t from = part.size();
  Request request{.url = file.url, .headers = {"Accept-Encoding: identity"}};
  if (from > 0) request.headers.push_back(concat("Range: bytes=", from, "-"));
  bool is_first = true;
  const Response response = http.send(request, [&](const Response& head, std::string_view bytes) {
    if (std::exchange(is_first, false) && from > 0) {
      const bool continues =
          head.status == 206 && head.header("content-range").starts_with(concat("bytes ", from, "-"));
      if (!continues) part.clear();
      check(continues || head.status == 200, file.path, ": the server sends another part than was asked for");
    }
    part.append(bytes);
  });
  const bool is_of_hub = http::origin_of(response.url) == http::origin_of(http.settings().endpoint);
  if (response.status == 416) part.clear();
  if (response.status == 416 || (response.status / 100 == 4 && !is_of_hub))  // signed addresses expire
    throw Transient(concat(file.path, ": the server refuses it (HTTP ", response.status, ")"));
  check_answer(http, repository, response);
  if (part.size() < file.size)
    throw Transient(concat(file.path, ": the connection ended after ", part.size(), " of ", file.size, " bytes"));
}

}  // namespace detail

/// Puts `file` into `blobs`, the folder of a repository in the cache, where it is named by its hash.
inline void fetch_blob(const Http& http, const Repository& repository, const RemoteFile& file, const fs::path& blobs,
                       const fs::path& locks, Progress& progress) {
  const fs::path blob = blobs / file.hash;
  std::error_code none;
  const auto is_there = [&] { return fs::is_regular_file(blob, none) && fs::file_size(blob, none) == file.size; };
  const auto count = [&] { progress.add(static_cast<std::int64_t>(file.size), false); };
  if (is_there()) return count();
  const detail::BlobLock lock(locks / (file.hash + ".lock"), http.stop());
  if (is_there()) return count();  // another program was quicker
  detail::PartialFile part(blob.string() + ".incomplete", file, progress);
  for (bool again = false;; again = true) {
    std::uint64_t before = part.size();
    const auto progressed = [&] { return part.size() > std::exchange(before, part.size()); };
    const auto attempt = [&] { return detail::receive(http, repository, file, part); };
    if (part.size() < file.size) http.with_patience(attempt, progressed);
    if (part.has_right_hash()) return part.rename_to(blob);
    part.clear();  // what an earlier download left may have been bad
    check(!again, file.path, ": what the server sends has another hash than it lists; try again later");
  }
}

}  // namespace kto::hub
#endif
