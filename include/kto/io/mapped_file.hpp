// SPDX-License-Identifier: Apache-2.0
// A file as memory: its pages are those of the system's cache, shared by all processes that map it, and the system may
// take them back at any time. For what is read often and may be read again.
#pragma once

#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <string_view>

#include "kto/io/file.hpp"

namespace kto {

/// The content of a regular file, read-only, from when it was opened. To change such a file, write a new one and rename
/// it: this one stays as it was. One that is written to, or cut, would change what is read here, or end the program
/// with a SIGBUS: call check_unchanged() before each longer use.
class MappedFile {
 public:
  explicit MappedFile(const fs::path& path) : path_(path), file_(open_to_read(path)), opened_(status()) {
    const auto size = static_cast<std::size_t>(opened_.st_size);
    if (size == 0) return;
    void* begin = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file_.get(), 0);
    if (begin == MAP_FAILED) fail(path_.string(), ": cannot be mapped into memory: ", std::strerror(errno));
    begin_ = static_cast<const char*>(begin);
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() {
    if (begin_ != nullptr) ::munmap(const_cast<char*>(begin_), static_cast<std::size_t>(opened_.st_size));
  }

  std::string_view bytes() const { return {begin_, static_cast<std::size_t>(opened_.st_size)}; }

  /// Throws Error if the file was written to since it was opened.
  void check_unchanged() const {
    const struct stat now = status();
    const bool is_same = now.st_size == opened_.st_size && now.st_mtim.tv_sec == opened_.st_mtim.tv_sec &&
                         now.st_mtim.tv_nsec == opened_.st_mtim.tv_nsec;
    check(is_same, path_.string(),
          ": was changed while it was in use; to change a file that a run is reading, write a ",
          "new one and rename it");
  }

 private:
  struct stat status() const {
    struct stat info{};
    if (::fstat(file_.get(), &info) != 0) fail(path_.string(), ": cannot be read: ", std::strerror(errno));
    return info;
  }

  fs::path path_;
  FileHandle file_;
  struct stat opened_;
  const char* begin_ = nullptr;
};

}  // namespace kto
