// SPDX-License-Identifier: Apache-2.0
// One program at a time in a folder: a lock that ends with the process, however it ends, and leaves no file behind.
#pragma once

#include <sys/file.h>

#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "kto/io/file.hpp"

namespace kto {

class FolderLock {
 public:
  explicit FolderLock(const fs::path& folder) : handle_(folder, O_RDONLY | O_DIRECTORY) {
    // On file systems without locks, flock fails with another error than EWOULDBLOCK; continue without a lock.
    if (::flock(handle_.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
      fail(folder.string(), ": another run is writing to this folder; wait for it, or choose another --output_dir");
    struct stat info{};  // a run that ends removes its own folder if it is empty
    if (::fstat(handle_.get(), &info) == 0 && info.st_nlink == 0)
      fail(folder.string(), ": another run has just removed this folder; start again");
  }

 private:
  FileHandle handle_;
};

/// Locks an existing folder for this process until the last holder releases it. Throws Error if another process has it.
inline std::shared_ptr<FolderLock> lock_folder(const fs::path& folder) {
  static std::mutex mutex;
  static std::map<std::pair<dev_t, ino_t>, std::weak_ptr<FolderLock>> held;
  struct stat info{};
  if (::stat(folder.c_str(), &info) != 0) fail(folder.string(), ": cannot be opened: ", std::strerror(errno));
  const std::lock_guard guard(mutex);
  auto& place = held[{info.st_dev, info.st_ino}];
  auto lock = place.lock();
  if (!lock) place = lock = std::make_shared<FolderLock>(folder);
  return lock;
}

}  // namespace kto
