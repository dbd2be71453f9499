// SPDX-License-Identifier: Apache-2.0
// Options of TRL that are known but do nothing here, listed by reason: refused ones, which accept only their default,
// and ones that are accepted without effect. The rows of a table of options are made from these lists.
#pragma once

#include <string_view>
#include <vector>

#include "kto/options/option.hpp"

namespace kto::detail {

struct RefusedOption {
  std::string_view name;
  std::string_view defaults;  ///< "a|b" if releases differ or two values mean "off"
};

struct RefusedOptions {
  std::string_view reason;
  std::vector<RefusedOption> options;
};

/// Whether True or False is among "a|b".
inline bool has_boolean(std::string_view values) {
  const auto pieces = split_bars(values);
  return std::any_of(pieces.begin(), pieces.end(), [](auto p) { return p == "True" || p == "False"; });
}

template <class Config>
void add_refused(Options<Config>& rows, const std::vector<RefusedOptions>& by_reason) {
  for (const auto& [reason, options] : by_reason)
    for (const auto& [name, defaults] : options)
      rows.push_back({.name = name, .is_flag = has_boolean(defaults), .defaults = defaults, .reason = reason});
}

struct TakenOption {
  std::string_view name;
  std::string_view defaults;  ///< as text; accepted without a note
  std::string_view takes;     ///< other values: "a|b", TEXT, TEXT... (also a list), N, JSON, {key,key=True} (an object)
  std::string_view refused_because = {};  ///< why all others are refused
};

struct TakenOptions {
  std::string_view because;
  std::vector<TakenOption> options;
};

template <class Config>
void add_taken(Options<Config>& rows, const std::vector<TakenOptions>& by_reason) {
  for (const auto& [because, options] : by_reason)
    for (const auto& [name, defaults, takes, refused_because] : options)
      rows.push_back({.name = name,
                      .is_flag = has_boolean(takes),
                      .defaults = defaults,
                      .without_effect = because,
                      .takes = takes,
                      .reason = refused_because});
}

/// Whether `value` is one of the values in `takes`.
inline bool takes_value(std::string_view takes, const Json& value) {
  const auto is = [&](std::string_view piece) {
    std::int64_t whole = 0;
    if (piece == "TEXT...") return value.is_array() || !value.is_object();
    if (piece == "TEXT") return !value.is_structured();
    if (piece == "N") return decode(value, whole);
    if (!piece.starts_with('{') && piece != "JSON") return same_value(value, piece);
    Json object;
    if (!decode(value, object) || piece == "JSON") return object.is_object();
    const std::string keys = "," + std::string(piece.substr(1, piece.size() - 2)) + ",";
    for (const auto& [key, given] : object.items())
      if (keys.find("," + key + ",") == std::string::npos &&
          keys.find(concat(',', key, '=', value_text(given), ',')) == std::string::npos)
        return false;
    return true;
  };
  const auto pieces = split_bars(takes);
  return std::any_of(pieces.begin(), pieces.end(), is);
}

}  // namespace kto::detail
