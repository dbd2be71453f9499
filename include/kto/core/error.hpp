// SPDX-License-Identifier: Apache-2.0
// Errors and checks that name what was wrong, where, what was expected, and what to do. Free of LibTorch.
#pragma once

#include <filesystem>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

#include "kto/core/utf8.hpp"

namespace kto {

/// Anything wrong with files, data, models or the machine. A program ends with exit status 1.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The caller asked for something that does not exist or is not supported. A program ends with exit status 2.
struct UsageError : Error {
  using Error::Error;
};

/// Joins its arguments as operator<< prints them.
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return std::move(out).str();
}

namespace detail {

/// What to do about a file system error; empty if the error explains itself.
inline std::string_view path_advice(const std::error_code& error) {
  using enum std::errc;
  if (error == permission_denied || error == operation_not_permitted)
    return "; change its permissions, or name another path";
  if (error == too_many_symbolic_link_levels) return "; a link in it leads to itself: fix it, or name another path";
  if (error == not_a_directory) return "; a part of it is a file: name another path";
  if (error == filename_too_long) return "; name a shorter path";
  if (error == no_space_on_device) return "; free some space on the disk";
  return "";
}

}  // namespace detail

/// The message of `error`. For an error of LibTorch, its first line only, without the backtrace. For a file system
/// error, the path, what is wrong with it, and what to do.
inline std::string error_text(const std::exception& error) {
  if (const auto* of_files = dynamic_cast<const std::filesystem::filesystem_error*>(&error)) {
    const bool has_two = !of_files->path2().empty();
    return concat(of_files->path1().string(), has_two ? " and " : "", of_files->path2().string(), ": ",
                  of_files->code().message(), detail::path_advice(of_files->code()));
  }
  const std::string_view text = error.what();
  const auto has = [&](std::string_view sign) { return text.find(sign) != std::string_view::npos; };
  const bool of_libtorch = has("\nException raised from ") || has("\nframe #");
  return std::string(of_libtorch ? text.substr(0, text.find('\n')) : text);
}

/// `text`, or its first `most` bytes (cut between UTF-8 characters) and "...": for quoting a file in a message.
inline std::string shortened(std::string_view text, std::size_t most) {
  if (text.size() <= most) return std::string(text);
  while (most > 0 && detail::is_continuation(text[most])) --most;
  return std::string(text.substr(0, most)) + "...";
}

/// Throws Error with the joined parts as message.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw Error(concat(parts...));
}

/// Throws Error with the joined parts unless `condition` holds.
template <class... Parts>
void check(bool condition, const Parts&... parts) {
  if (!condition) fail(parts...);
}

}  // namespace kto
