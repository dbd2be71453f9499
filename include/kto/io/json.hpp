// SPDX-License-Identifier: Apache-2.0
// JSON that keeps the order of keys, with errors that name line and column.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/core/error.hpp"
#include "kto/io/file.hpp"
#include "kto/io/ordered_map.hpp"

namespace kto {

using Json = nlohmann::basic_json<detail::OrderedMap>;

namespace detail {

/// Deeper than any real file. The limit exists because parsed values are copied and printed recursively.
inline constexpr std::ptrdiff_t max_json_depth = 256;

/// How many bytes of broken text a message quotes.
inline constexpr std::size_t max_json_quote = 100;

/// Offset of the bracket that opens level max_json_depth + 1; npos if there is none.
inline std::size_t find_too_deep(std::string_view text) {
  const auto opens = [](char c) { return c == '[' || c == '{'; };
  if (std::count_if(text.begin(), text.end(), opens) <= max_json_depth) return std::string_view::npos;
  std::ptrdiff_t depth = 0;
  bool in_string = false;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (in_string && c == '\\')
      ++at;
    else if (c == '"')
      in_string = !in_string;
    else if (!in_string && opens(c) && ++depth > max_json_depth)
      return at;
    else if (!in_string && (c == ']' || c == '}'))
      --depth;
  }
  return std::string_view::npos;
}

}  // namespace detail

/// Parses `text`, which must be UTF-8. Throws Error if it is not JSON or nests deeper than max_json_depth; the message
/// starts with `where` (a path, or "FILE: line 3"). `first_line` is the number of its first line in the file.
inline Json parse_json(std::string_view text, std::string_view where, std::size_t first_line = 1) {
  const auto place = [&](std::size_t at) {
    const auto before = text.substr(0, at);
    const auto line = first_line + static_cast<std::size_t>(std::ranges::count(before, '\n'));
    const std::size_t start = before.rfind('\n') + 1;  // npos + 1 == 0
    return concat(where, ": line ", line, ", column ", at - start + 1, ": ");
  };
  if (const std::size_t deep = detail::find_too_deep(text); deep != std::string_view::npos)
    fail(place(deep), "lists and objects are nested more than ", detail::max_json_depth, " deep");
  try {
    return Json::parse(text.begin(), text.end());
  } catch (const Json::parse_error& error) {
    const std::size_t at = std::min(error.byte > 0 ? error.byte - 1 : 0, text.size());
    // nlohmann's text: "... while parsing value - invalid literal; last read: ...", or "... - unexpected X; expected Y"
    std::string reason = error.what();
    if (const auto dash = reason.find(" - "); dash != std::string::npos)
      reason = reason.substr(dash + 3);
    else if (const auto colon = reason.rfind(": "); colon != std::string::npos)
      reason = reason.substr(colon + 2);
    fail(place(at), "not valid JSON: ", shortened(reason, detail::max_json_quote));
  } catch (const Json::out_of_range& error) {  // "... number overflow parsing '1e999'", without a position
    const std::string reason = error.what();
    const std::size_t quote = std::min(reason.find('\''), reason.size() - 1);
    const std::string number = reason.substr(quote + 1, reason.rfind('\'') - quote - 1);
    fail(place(std::min(text.find(number), text.size())), "not valid JSON: the number ",
         shortened(number, detail::max_json_quote), " is too large");
  }
}

/// Reads and parses a JSON file.
inline Json read_json(const fs::path& path) { return parse_json(read_file(path), path.string()); }

/// `value` as T; empty if it has another type. An integer, alone or in a vector, must be written as an integer and fit
/// T (Json's own get() would also accept 1e40).
template <class T>
std::optional<T> json_as(const Json& value) {
  if constexpr (requires { requires std::same_as<T, std::vector<typename T::value_type>>; }) {
    if (!value.is_array()) return std::nullopt;
    T out;
    for (const Json& item : value) {
      auto taken = json_as<typename T::value_type>(item);
      if (!taken) return std::nullopt;
      out.push_back(*std::move(taken));
    }
    return out;
  } else if constexpr (std::integral<T> && !std::same_as<T, bool>) {
    if (!value.is_number_integer()) return std::nullopt;
    if (value.is_number_unsigned()) {
      const auto number = value.get<std::uint64_t>();
      return std::in_range<T>(number) ? std::optional(static_cast<T>(number)) : std::nullopt;
    }
    const auto number = value.get<std::int64_t>();
    return std::in_range<T>(number) ? std::optional(static_cast<T>(number)) : std::nullopt;
  } else {
    try {
      return value.get<T>();
    } catch (const Json::exception&) {
      return std::nullopt;
    }
  }
}

/// `object[key]` as T, or `otherwise` if the key is absent or null. A value of another type is an Error naming both.
template <class T>
T json_value(const Json& object, const std::string& key, T otherwise, std::string_view where) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return otherwise;
  if (auto value = json_as<T>(*found)) return *std::move(value);
  fail(where, ": \"", key, "\" has the unexpected value ", shortened(found->dump(), detail::max_json_quote));
}

}  // namespace kto
