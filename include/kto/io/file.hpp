// SPDX-License-Identifier: Apache-2.0
// Opens files, reads them whole or in blocks, and appends to them. atomic_file.hpp writes whole files.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include "kto/core/error.hpp"
#include "kto/core/interrupt.hpp"

namespace kto {

namespace fs = std::filesystem;

/// A file descriptor that closes itself.
class FileHandle {
 public:
  FileHandle(const fs::path& path, int flags, mode_t mode = 0666) : fd_(::open(path.c_str(), flags | O_CLOEXEC, mode)) {
    if (fd_ < 0) fail(path.string(), ": cannot be opened: ", std::strerror(errno));
  }
  FileHandle(FileHandle&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileHandle& operator=(FileHandle&&) = delete;
  ~FileHandle() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

/// Opens a regular file for reading. Anything else (a folder, a FIFO, a device, a socket) is an Error; opening a FIFO
/// that nobody writes to does not block.
inline FileHandle open_to_read(const fs::path& path) {
  std::error_code none;
  const fs::file_status status = fs::status(path, none);
  const auto refuse = [&](bool is_folder) {
    fail(path.string(), ": is not a file but ", is_folder ? "a folder" : "a FIFO, device or socket");
  };
  if (fs::is_directory(status)) refuse(true);
  if (fs::exists(status) && !fs::is_regular_file(status)) refuse(false);
  FileHandle file(path, O_RDONLY | O_NONBLOCK);  // the name may refer to something else by now
  struct stat info{};
  if (::fstat(file.get(), &info) != 0) fail(path.string(), ": cannot be read: ", std::strerror(errno));
  if (!S_ISREG(info.st_mode)) refuse(S_ISDIR(info.st_mode));
  return file;
}

/// Writes all of `bytes` to `file`, which is `path` in messages.
inline void append(const FileHandle& file, const fs::path& path, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(file.get(), bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) fail(path.string(), ": cannot be written: ", std::strerror(errno));
    bytes.remove_prefix(static_cast<std::size_t>(put));
  }
}

/// A regular file, read block by block up to the size it had when it was opened. If it becomes shorter meanwhile, that
/// is an Error (mapped memory would give a SIGBUS). Throws Interrupted between blocks.
class FileReader {
 public:
  explicit FileReader(const fs::path& path) : path_(path), file_(open_to_read(path)) {
    struct stat info{};
    if (::fstat(file_.get(), &info) != 0) fail(path.string(), ": cannot be read: ", std::strerror(errno));
    size_ = static_cast<std::size_t>(info.st_size);
  }

  std::size_t size() const { return size_; }

  /// Reads the bytes [offset, offset + count), which must be within the file, into `to`.
  void read_at(std::size_t offset, char* to, std::size_t count) const {
    constexpr std::size_t most = 64 << 20;
    while (count > 0) {
      check_interrupt();
      const ssize_t got = ::pread(file_.get(), to, std::min(count, most), static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail(path_.string(), ": cannot be read: ", std::strerror(errno));
      if (got == 0)
        fail(path_.string(), ": became shorter while it was read: it had ", size_, " bytes and now ends at ", offset,
             "; to change a file that a run is reading, write a new one and rename it");
      to += got;
      offset += static_cast<std::size_t>(got);
      count -= static_cast<std::size_t>(got);
    }
  }

  /// Appends up to `most` bytes to `out`; returns false at the end.
  bool read(std::string& out, std::size_t most) {
    const std::size_t before = out.size(), count = std::min(most, size_ - at_);
    out.resize(before + count);
    read_at(at_, out.data() + before, count);
    at_ += count;
    return count > 0;
  }

  bool ends() const { return at_ == size_; }
  /// The share of the file read so far, from 0 to 1.
  double share() const { return size_ == 0 ? 1 : static_cast<double>(at_) / static_cast<double>(size_); }

 private:
  fs::path path_;
  FileHandle file_;
  std::size_t size_ = 0, at_ = 0;
};

/// The content of a file. Throws Error naming the path if it is missing, not a regular file, or unreadable.
inline std::string read_file(const fs::path& path) {
  const FileHandle file = open_to_read(path);
  std::string content;
  char buffer[1 << 16];
  for (;;) {
    const ssize_t got = ::read(file.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(path.string(), ": cannot be read: ", std::strerror(errno));
    if (got == 0) return content;
    content.append(buffer, static_cast<std::size_t>(got));
  }
}

}  // namespace kto
