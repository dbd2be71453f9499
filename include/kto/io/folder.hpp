// SPDX-License-Identifier: Apache-2.0
// Folders that are written to: made where they are missing, and refused in words where they cannot be.
#pragma once

#include <string>
#include <vector>

#include "kto/io/file.hpp"

namespace kto {

/// What keeps `folder` from being a folder that is written to, or from being made: "PATH is a file, not a folder".
/// Empty where nothing does.
inline std::string folder_problem(const fs::path& folder) {
  constexpr std::size_t longest_name = 255;  // bytes, on the file systems of Linux
  std::error_code problem, none;
  fs::path at, deepest = ".";  // the part that is there
  bool is_there = true;
  for (const fs::path& part : folder) {
    at /= part;
    if (part.native().size() > longest_name)
      return concat("the name ", shortened(part.string(), 40), " has ", part.native().size(), " bytes, and ",
                    longest_name, " are the most");
    const fs::file_status status = fs::status(at, problem);
    if (fs::is_directory(status)) {
      deepest = at;
    } else if (fs::is_symlink(fs::symlink_status(at, none))) {
      return concat(at.string(), " is a link that leads ", fs::exists(status) ? "to a file" : "nowhere");
    } else if (fs::exists(status)) {
      return concat(at.string(), " is a file, not a folder");
    } else if (status.type() != fs::file_type::not_found) {
      return concat(at.string(), ": ", problem.message());
    } else {
      is_there = false;
    }
  }
  if (::access(deepest.c_str(), W_OK | X_OK) == 0) return "";
  return concat(deepest.string(),
                is_there ? " cannot be written to: " : ": no folder can be made in it: ", std::strerror(errno));
}

/// Throws Error where `folder`, which `name` is called, is no folder to write to and cannot be made one.
inline void check_folder(const fs::path& folder, std::string_view name) {
  if (const std::string problem = folder_problem(folder); !problem.empty())
    fail(name, ' ', folder.string(), ": ", problem, "; expected a folder to write to, or the path of a new one");
}

/// Makes `folder`, and those above it, where they are missing; returns those that it made, the innermost first. Throws
/// Error that names the part of the path which stands in the way.
inline std::vector<fs::path> make_folder(const fs::path& folder) {
  std::error_code problem, none;
  if (fs::is_directory(folder, none)) return {};
  std::string why = folder_problem(folder);
  std::vector<fs::path> missing;
  for (fs::path at = folder; !at.empty() && fs::status(at, none).type() == fs::file_type::not_found;
       at = at.parent_path())
    if (at.has_filename()) missing.push_back(at);
  if (why.empty() && !fs::create_directories(folder, problem) && !fs::is_directory(folder, none))
    why = problem.message();
  if (!why.empty()) fail(folder.string(), ": no folder can be made there: ", why, "; name another folder");
  return missing;
}

}  // namespace kto
