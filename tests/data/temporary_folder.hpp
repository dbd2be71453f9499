// SPDX-License-Identifier: Apache-2.0
// A folder that is gone when the test ends, and files in it.
#pragma once

#include <atomic>
#include <fstream>
#include <string>
#include <string_view>

#include "kto/io/file.hpp"

namespace kto_test {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    static std::atomic<int> count = 0;
    path_ = kto::fs::temp_directory_path() / kto::concat("kto_test_", ::getpid(), "_", count++);
    kto::fs::create_directories(path_);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() { kto::fs::remove_all(path_); }

  const kto::fs::path& path() const { return path_; }
  kto::fs::path write(const std::string& name, std::string_view content) const {
    kto::fs::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << content;
    return path_ / name;
  }

 private:
  kto::fs::path path_;
};

/// The message of the kto::Error that `call` throws; empty when it throws none.
template <class Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const kto::Error& error) {
    return error.what();
  }
  return {};
}

}  // namespace kto_test
