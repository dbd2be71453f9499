// SPDX-License-Identifier: Apache-2.0
// Errors and checks that name what was wrong, where, what was expected, and what to do. Free of LibTorch.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace kto {

/// Anything wrong with files, data, models or the machine. A program ends with exit status 1.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The caller asked for something that does not exist or is not supported. A program ends with exit status 2.
struct UsageError : Error {
  using Error::Error;
};

/// What `error` says. Of an error of LibTorch that is the first line: a backtrace follows it.
inline std::string error_text(const std::exception& error) {
  const std::string_view text = error.what();
  const auto has = [&](std::string_view sign) { return text.find(sign) != std::string_view::npos; };
  const bool of_libtorch = has("\nException raised from ") || has("\nframe #");
  return std::string(of_libtorch ? text.substr(0, text.find('\n')) : text);
}

/// Joins its arguments as operator<< prints them.
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return std::move(out).str();
}

/// `text`, or its first `most` bytes, in whole UTF-8 characters, and "...": what a message quotes of a file.
inline std::string shortened(std::string_view text, std::size_t most) {
  if (text.size() <= most) return std::string(text);
  while (most > 0 && (static_cast<unsigned char>(text[most]) & 0xC0U) == 0x80U) --most;
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
