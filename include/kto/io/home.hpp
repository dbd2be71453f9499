// SPDX-License-Identifier: Apache-2.0
// The user's home folder in paths that begin with ~, and that of Hugging Face's programs.
#pragma once

#include <pwd.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "kto/core/environment.hpp"

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

/// HF_HOME, else huggingface/ in XDG_CACHE_HOME or ~/.cache.
inline std::filesystem::path hugging_face_home() {
  if (const auto given = environment("HF_HOME")) return expand_home(*given);
  return std::filesystem::path(expand_home(environment("XDG_CACHE_HOME").value_or("~/.cache"))) / "huggingface";
}

}  // namespace kto
