// SPDX-License-Identifier: Apache-2.0
// The user's home folder in paths that begin with ~.
#pragma once

#include <pwd.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace kto {

/// "~/x" below the home folder, HOME or, where that is empty, that of the user's entry, as Python's expanduser has it;
/// other paths, and those of a user without a home, as they are.
inline std::string expand_home(const std::string& path) {
  if (path != "~" && !path.starts_with("~/")) return path;
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0')
    if (const passwd* user = ::getpwuid(::getuid()); user != nullptr) home = user->pw_dir;
  return home != nullptr ? home + path.substr(1) : path;
}

}  // namespace kto
