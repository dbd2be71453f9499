// SPDX-License-Identifier: Apache-2.0
// Makes outside text (rows, names of files, columns and tensors, templates, replies of a model) safe to print: it
// cannot control the terminal.
#pragma once

#include <cstdio>
#include <iostream>
#include <string>
#include <string_view>

#include "kto/core/error.hpp"
#include "kto/core/utf8.hpp"

namespace kto {

namespace detail {

/// Whether `c` controls a terminal or changes the direction of text.
inline bool is_control(char32_t c) {
  const auto within = [&](char32_t first, char32_t last) { return c >= first && c <= last; };
  return c < 0x20 || within(0x7F, 0x9F) ||            // C0, DEL, C1
         c == 0x61C || c == 0x200E || c == 0x200F ||  // bidirectional marks
         within(0x2028, 0x202E) ||                    // separators of lines and paragraphs, embeddings, overrides
         within(0x2066, 0x206F);                      // isolates, and the deprecated controls
}

}  // namespace detail

/// `text` with controls and bytes that are not UTF-8 escaped (\x1B, \u202E). Line feeds and tabs stay; with `one_line`
/// they become \n and \t, and quotes and backslashes get a backslash.
inline std::string printable(std::string_view text, bool one_line = false) {
  std::string out;
  out.reserve(text.size());
  const auto escape = [&](const char* form, unsigned value) {
    char escaped[16];
    std::snprintf(escaped, sizeof escaped, form, value);
    out += escaped;
  };
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t size = detail::code_point_size(text, at);
    const char c = text[at];
    const char32_t point = size > 0 ? detail::code_point(text, at, size) : 0;
    if (one_line && (c == '"' || c == '\\'))
      out += {'\\', c};
    else if (c == '\n' || c == '\t')
      out += !one_line ? std::string_view(&c, 1) : c == '\n' ? "\\n" : "\\t";
    else if (size > 0 && !detail::is_control(point))
      out += text.substr(at, size);
    else if (size > 1)
      escape("\\u%04X", static_cast<unsigned>(point));
    else
      escape("\\x%02X", static_cast<unsigned char>(c));
    at += size > 0 ? size : 1;
  }
  return out;
}

/// The exit status of a program that ends with `error`: 2 for a UsageError, else 1.
inline int exit_status(const std::exception& error) {
  return dynamic_cast<const UsageError*>(&error) != nullptr ? 2 : 1;
}

/// Prints "PROGRAM: error: MESSAGE" for an error that reached main, and returns the exit status.
inline int report_error(std::string_view program, const std::exception& error) {
  std::cerr << program << ": error: " << printable(error_text(error)) << '\n';
  return exit_status(error);
}

}  // namespace kto
