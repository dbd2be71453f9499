// SPDX-License-Identifier: Apache-2.0
// Building blocks for tables of options: ranges of numbers, and functions that adjust a row.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/options/option.hpp"

namespace kto::detail {

inline Range count(double least) {
  return {concat("an integer from ", least, " to 1000000000"), [least](double x) { return x >= least && x <= 1e9; }};
}
/// Numbers become float32, which ends at 3.4e38.
inline Range at_least_zero(double most = 1e30) {
  return {"a number from 0 to " + value_text(Json(most)), [most](double x) { return x >= 0 && x <= most; }};
}
inline Range above_zero() {
  return {"a number > 0 and at most 1e+30", [](double x) { return x > 0 && x <= 1e30; }};
}
/// A whole number of steps, or a fraction of the run (below 1).
inline Range steps(std::string_view none, bool zero) {
  return {concat(none, "a number of steps from 1 to 1000000000, or a fraction of the run below 1"), [zero](double x) {
            return (x >= 1 && x <= 1e9 && x == std::floor(x)) || (x > 0 && x < 1) || (zero && x == 0);
          }};
}
inline Range fraction(std::string_view expects, bool one) {
  return {std::string(expects), [one](double x) { return x >= 0 && (x < 1 || (one && x == 1)); }};
}
inline Range seeds(std::string_view none, double most) {
  return {concat(none, "an integer from 0 to ", most < 1e10 ? "4294967295" : "9007199254740992"),
          [most](double x) { return x >= 0 && x <= most; }};
}

/// True, False, or a folder.
template <class Config>
Option<Config> resume_option(Option<Config> row) {
  row.placeholder = "True|DIR";
  row.expects = "True, or a folder";
  row.set = [set = row.set](Config& config, const Json& value) {
    if (!value.is_boolean()) return set(config, same_value(value, "False") ? Json(nullptr) : value);
    return set(config, value.get<bool>() ? Json("True") : Json(nullptr));
  };
  return row;
}

/// Refuses the values "a|b", which the enum or another trainer has.
template <class Config>
Option<Config> with_refused(Option<Config> row, std::string_view refused, std::string_view reason) {
  const auto bad = split_bars(refused);
  std::string placeholder;
  row.expects.clear();
  for (const std::string_view name : split_bars(row.placeholder)) {
    if (std::ranges::find(bad, name) != bad.end()) continue;
    placeholder.append(placeholder.empty() ? "" : "|").append(name);
    row.expects.append(row.expects.empty() ? "" : " or ").append(name);
  }
  row.placeholder = placeholder;
  row.refused = refused;
  row.reason = reason;
  return row;
}

/// Marks the rows with these names as without effect when idle(config) holds, with the reason.
template <class Config, class Idle>
void set_unused(Options<Config>& rows, const std::vector<std::string_view>& names, std::string_view why, Idle idle) {
  for (Option<Config>& row : rows)
    if (std::ranges::find(names, row.name) != names.end())
      row.unused = [why, idle, before = row.unused](const Config& config) {
        return idle(config) ? why : before ? before(config) : std::string_view();
      };
}

/// Notes that TRL's default differs. None is accepted and keeps our default.
template <class Config>
Option<Config> with_trl_default(Option<Config> row, std::string_view value) {
  row.trl_default = value;
  row.set = [set = row.set](Config& config, const Json& given) { return is_none(given) || set(config, given); };
  return row;
}

/// Adds names that others use for this option ("a|b").
template <class Config>
Option<Config> with_synonyms(Option<Config> row, std::string_view names) {
  row.synonyms = names;
  return row;
}

/// Sets the placeholder of the value in --help.
template <class Config>
Option<Config> named(Option<Config> row, std::string placeholder) {
  row.placeholder = std::move(placeholder);
  return row;
}

/// Accepts a boolean, too, for an enum that is a boolean in other releases.
template <class Config>
Option<Config> flag_also(Option<Config> row, std::string_view when_true, std::string_view when_false) {
  row.is_flag = true;
  row.set = [set = row.set, when_true, when_false](Config& config, const Json& value) {
    if (set(config, value)) return true;
    bool given = false;
    return decode(value, given) && set(config, Json(given ? when_true : when_false));
  };
  return row;
}

}  // namespace kto::detail
