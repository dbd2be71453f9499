// SPDX-License-Identifier: Apache-2.0
// The user's home folder in paths that begin with ~, and that of Hugging Face's programs.
#pragma once

#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
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

/// A path with ~ and with $NAME or ${NAME}, as Python's expanduser and expandvars have it: names that are not in the
/// environment stay.
inline std::string expand_path(const std::string& path) {
  std::string rest = expand_home(path), out;
  const auto is_word = [](unsigned char c) { return std::isalnum(c) != 0 || c == '_'; };
  for (std::size_t dollar; (dollar = rest.find('$')) != std::string::npos;) {
    out += rest.substr(0, dollar);
    rest.erase(0, dollar);
    const bool has_braces = rest.starts_with("${");
    const auto begin = rest.begin() + (has_braces ? 2 : 1);
    const auto end = has_braces ? std::find(begin, rest.end(), '}') : std::find_if_not(begin, rest.end(), is_word);
    const char* const value = has_braces && end == rest.end() ? nullptr : std::getenv(std::string(begin, end).c_str());
    const auto past = value != nullptr && has_braces ? end + 1 : end;
    out += value != nullptr ? value : std::string(rest.begin(), past);
    rest.erase(rest.begin(), past);
  }
  return out + rest;
}

/// HF_HOME, else huggingface/ in XDG_CACHE_HOME or ~/.cache.
inline std::filesystem::path hugging_face_home() {
  if (const auto given = environment("HF_HOME")) return expand_path(*given);
  return std::filesystem::path(expand_path(environment("XDG_CACHE_HOME").value_or("~/.cache"))) / "huggingface";
}

}  // namespace kto
