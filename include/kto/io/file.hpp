// SPDX-License-Identifier: Apache-2.0
// Files: opened, read whole, mapped, appended to. atomic_file.hpp writes them whole.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
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

/// A regular file, opened for reading. Anything else (a folder, a FIFO that nobody writes to, a device, a socket) is an
/// Error, and opening it does not wait.
inline FileHandle open_to_read(const fs::path& path) {
  std::error_code none;
  const fs::file_status status = fs::status(path, none);
  const auto refuse = [&](bool is_folder) {
    fail(path.string(), ": is not a file but ", is_folder ? "a folder" : "a FIFO, a device or a socket");
  };
  if (fs::is_directory(status)) refuse(true);
  if (fs::exists(status) && !fs::is_regular_file(status)) refuse(false);
  FileHandle file(path, O_RDONLY | O_NONBLOCK);  // the name may stand for something else by now
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

/// A whole file, mapped read-only. Pages are loaded when touched.
class MappedFile {
 public:
  explicit MappedFile(const fs::path& path) {
    const FileHandle file = open_to_read(path);
    struct stat info{};
    if (::fstat(file.get(), &info) != 0) fail(path.string(), ": cannot be read: ", std::strerror(errno));
    size_ = static_cast<std::size_t>(info.st_size);
    if (size_ == 0) return;
    void* mapped = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.get(), 0);
    if (mapped == MAP_FAILED) fail(path.string(), ": cannot be mapped: ", std::strerror(errno));
    data_ = static_cast<const char*>(mapped);
  }
  MappedFile(MappedFile&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  MappedFile& operator=(MappedFile&&) = delete;
  ~MappedFile() {
    if (data_ != nullptr) ::munmap(const_cast<char*>(data_), size_);
  }
  std::string_view bytes() const { return {data_, size_}; }

  /// Lets the pages that lie within the bytes [begin, end) go from memory; touched again, they are loaded again.
  void release(std::size_t begin, std::size_t end) const {
    constexpr std::size_t page = 1 << 16;  // a multiple of any system's
    begin = (begin + page - 1) / page * page;
    end = std::min(end, size_) / page * page;
    if (begin < end) ::madvise(const_cast<char*>(data_) + begin, end - begin, MADV_DONTNEED);
  }

 private:
  const char* data_ = nullptr;
  std::size_t size_ = 0;
};

/// The content of a file. Throws Error naming the path when it is missing, no regular file, or unreadable.
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
