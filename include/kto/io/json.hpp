// SPDX-License-Identifier: Apache-2.0
// JSON that keeps the order of keys, with errors that name the place.
#pragma once

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "kto/core/error.hpp"
#include "kto/io/file.hpp"

namespace kto {

using Json = nlohmann::ordered_json;

/// Parses `text`. `where` (a path, or "FILE: line 3") opens the message of the Error thrown when it is not JSON.
/// Text must be UTF-8; `first_line` is the number of its first line in the file.
inline Json parse_json(std::string_view text, std::string_view where, std::size_t first_line = 1) {
  try {
    return Json::parse(text.begin(), text.end());
  } catch (const Json::parse_error& error) {
    const std::size_t at = std::min(error.byte > 0 ? error.byte - 1 : 0, text.size());
    const auto line = first_line + static_cast<std::size_t>(
                                       std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n'));
    const std::size_t start = at == 0 ? 0 : text.rfind('\n', at - 1) + 1;  // npos + 1 == 0
    std::string reason = error.what();
    if (const auto cut = reason.find("; "); cut != std::string::npos)
      reason = reason.substr(cut + 2);
    else if (const auto colon = reason.rfind(": "); colon != std::string::npos)
      reason = reason.substr(colon + 2);
    fail(where, ": line ", line, ", column ", at - start + 1, ": not valid JSON: ", reason);
  }
}

/// Reads and parses a JSON file.
inline Json read_json(const fs::path& path) { return parse_json(read_file(path), path.string()); }

/// `object[key]` as T, or `otherwise` when the key is absent or null; a value of another type is an Error naming both.
template <class T>
T json_value(const Json& object, const std::string& key, T otherwise, std::string_view where) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return otherwise;
  try {
    return found->template get<T>();
  } catch (const Json::exception&) {
    fail(where, ": \"", key, "\" has the unexpected value ", found->dump());
  }
}

}  // namespace kto
