// SPDX-License-Identifier: Apache-2.0
// Creates output folders, with an error that names the part of the path that stands in the way.
#pragma once

#include <string>
#include <vector>

#include "kto/io/file.hpp"

namespace kto {

/// Why `folder` can be neither written to nor created, such as "PATH is a file, not a folder"; empty if it can.
inline std::string folder_problem(const fs::path& folder) {
  constexpr std::size_t longest_name = 255;  // bytes, on the file systems of Linux
  std::error_code problem, none;
  fs::path at, deepest = ".";  // deepest: the innermost part that exists
  bool is_there = true;
  for (const fs::path& part : folder) {
    at /= part;
    if (part.native().size() > longest_name)
      return concat("the name ", shortened(part.string(), 40), " has ", part.native().size(), " bytes; the limit is ",
                    longest_name);
    const fs::file_status status = fs::status(at, problem);
    if (fs::is_directory(status)) {
      deepest = at;
    } else if (fs::is_symlink(fs::symlink_status(at, none))) {
      return concat(at.string(), " is a link ", fs::exists(status) ? "to a file" : "to nothing");
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
                is_there ? " cannot be written to: " : ": no folder can be created in it: ", std::strerror(errno));
}

/// The last name in the path of `folder`, whether or not a slash follows it.
inline std::string name_of(const fs::path& folder) {
  const fs::path whole = fs::absolute(folder).lexically_normal();
  return (whole.has_filename() ? whole : whole.parent_path()).filename().string();
}

/// Throws Error if `folder` can be neither written to nor created. `name` says what the folder is for.
inline void check_folder(const fs::path& folder, std::string_view name) {
  if (const std::string problem = folder_problem(folder); !problem.empty())
    fail(name, ' ', folder.string(), ": ", problem, "; expected a folder to write to, or the path of a new one");
}

/// Creates `folder` and its parents if they are missing, and returns those it created, innermost first. Throws Error
/// naming the part of the path that stands in the way.
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
  if (!why.empty()) fail(folder.string(), ": the folder cannot be created: ", why, "; name another folder");
  return missing;
}

}  // namespace kto
