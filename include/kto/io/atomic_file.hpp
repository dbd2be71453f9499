// SPDX-License-Identifier: Apache-2.0
// Atomic file writes: a reader sees the old content or the new, never half of it. While it is being written, file NAME
// is called NAME.tmpPID and its writer holds a lock on it. The lock tells a live temporary file from one that a killed
// program left; the process number cannot, since another program may have it by now, and it means nothing in another
// container or on another machine that shares the folder. On file systems without locks, the file's age decides.
#pragma once

#include <sys/file.h>

#include <ctime>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "kto/io/file.hpp"

namespace kto {

namespace detail {

/// The NAME in "NAME.tmpPID" or "NAME.tmpPID-COUNT", a pattern that only this code writes.
inline std::optional<std::string> name_of_temporary(std::string_view name) {
  const auto drop_number = [&] {
    const std::size_t end = name.find_last_not_of("0123456789") + 1;  // 0 if there are only digits
    const bool has_number = end < name.size();
    name = name.substr(0, end);
    return has_number;
  };
  if (!drop_number()) return std::nullopt;
  if (name.ends_with('-')) {
    name.remove_suffix(1);
    if (!drop_number()) return std::nullopt;
  }
  constexpr std::string_view suffix = ".tmp";
  if (!name.ends_with(suffix) || name.size() == suffix.size()) return std::nullopt;
  return std::string(name.substr(0, name.size() - suffix.size()));
}

/// Removes the temporary file at `path` if nobody is writing to it any more.
inline void remove_if_stale(const fs::path& path) {
  constexpr std::time_t day = 24L * 60 * 60;
  const int file = ::open(path.c_str(), O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (file < 0) return;
  const bool is_locked = ::flock(file, LOCK_EX | LOCK_NB) == 0;
  const bool has_locks = is_locked || errno == EWOULDBLOCK;
  struct stat held{}, named{};  // the name may refer to another file by now
  const bool is_same = ::fstat(file, &held) == 0 && ::lstat(path.c_str(), &named) == 0 && S_ISREG(held.st_mode) &&
                       held.st_dev == named.st_dev && held.st_ino == named.st_ino;
  if (is_same && (is_locked || (!has_locks && held.st_mtime + day < std::time(nullptr)))) ::unlink(path.c_str());
  ::close(file);
}

}  // namespace detail

/// Removes temporary files NAME.tmpPID that killed programs left in `folder`, if `is_own(NAME)`.
template <class IsOwn>
void remove_stale_temporaries(const fs::path& folder, const IsOwn& is_own) {
  std::error_code problem;
  for (fs::directory_iterator at(folder, problem); !problem && at != fs::directory_iterator(); at.increment(problem)) {
    const auto name = detail::name_of_temporary(at->path().filename().string());
    if (name && is_own(*name)) detail::remove_if_stale(at->path());
  }
}

/// Writes a new file beside `path` under a temporary name; commit() flushes it to the disk and renames it over `path`.
/// Without commit() the temporary file is removed and `path` stays as it was.
class AtomicFile {
 public:
  explicit AtomicFile(fs::path path) : path_(std::move(path)), file_(begin()) {}
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile() {
    if (!committed_) ::unlink(temporary_.c_str());
  }

  void write(std::string_view bytes) { append(file_, path_, bytes); }

  void commit() {
    if (::fsync(file_.get()) != 0) fail(path_.string(), ": cannot be written: ", std::strerror(errno));
    if (::rename(temporary_.c_str(), path_.c_str()) != 0)
      fail(path_.string(), ": cannot be replaced: ", std::strerror(errno));
    committed_ = true;
    const FileHandle directory(folder(), O_RDONLY | O_DIRECTORY);
    ::fsync(directory.get());  // makes the rename durable; some file systems cannot, but the data is safe regardless
  }

 private:
  fs::path folder() const { return path_.has_parent_path() ? path_.parent_path() : fs::path("."); }

  /// Opens and locks the temporary file: a new one, or a leftover that nobody holds.
  FileHandle begin() {
    remove_stale_temporaries(folder(), [this](const std::string& name) { return name == path_.filename(); });
    for (int count = 0, tries = 0;;) {
      temporary_ = concat(path_.string(), ".tmp", ::getpid(), count > 0 ? concat('-', count) : "");
      FileHandle file(temporary_, O_WRONLY | O_CREAT);
      if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        ++count;
        continue;
      }
      struct stat info{};
      const bool was_cleared = ::fstat(file.get(), &info) == 0 && info.st_nlink == 0;  // before the lock
      if (was_cleared && ++tries < 3) continue;
      if (::ftruncate(file.get(), 0) != 0) fail(path_.string(), ": cannot be written: ", std::strerror(errno));
      return file;
    }
  }

  fs::path path_;
  fs::path temporary_;
  FileHandle file_;
  bool committed_ = false;
};

/// Replaces the content of `path`, whole or not at all.
inline void write_file(const fs::path& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

}  // namespace kto
