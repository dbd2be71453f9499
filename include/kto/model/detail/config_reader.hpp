// SPDX-License-Identifier: Apache-2.0
// Typed access to the keys of config.json. An absent or null key has the default, or is an Error if there is none; a
// flag that is null is false. A value of the wrong type is an Error naming key and value.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/core/error.hpp"
#include "kto/io/json.hpp"

namespace kto::detail {

/// A value for a message: in full if it is a scalar, else only its type and size.
inline std::string shown(const Json& value) {
  return value.is_structured() ? concat("an ", value.type_name(), " of ", value.size()) : value.dump();
}

struct ConfigReader {
  const Json& json;
  std::string where;  ///< starts every message

  bool has(const std::string& key) const {
    const auto found = json.find(key);
    return found != json.end() && !found->is_null();
  }

  std::int64_t integer(const std::string& key, std::optional<std::int64_t> otherwise = std::nullopt) const {
    if (absent(key, otherwise.has_value())) return *otherwise;
    const auto value = json_as<std::int64_t>(json.at(key));
    expect(value.has_value(), key, "an integer");
    return *value;
  }
  std::int64_t positive(const std::string& key, std::optional<std::int64_t> otherwise = std::nullopt) const {
    const std::int64_t value = integer(key, otherwise);
    expect(value > 0 && value <= std::numeric_limits<std::int32_t>::max(), key, "a positive integer");
    return value;
  }
  double number(const std::string& key, std::optional<double> otherwise = std::nullopt) const {
    if (absent(key, otherwise.has_value())) return *otherwise;
    expect(json.at(key).is_number(), key, "a number");
    return json.at(key).get<double>();
  }
  double positive_number(const std::string& key, std::optional<double> otherwise = std::nullopt) const {
    const double value = number(key, otherwise);
    expect(value > 0, key, "a positive number");
    return value;
  }
  /// null is false, as in Python.
  bool flag(const std::string& key, bool otherwise) const {
    if (absent(key, true)) return otherwise && !json.contains(key);
    expect(json.at(key).is_boolean(), key, "true or false");
    return json.at(key).get<bool>();
  }
  std::string text(const std::string& key, std::optional<std::string> otherwise = std::nullopt) const {
    if (absent(key, otherwise.has_value())) return *otherwise;
    expect(json.at(key).is_string(), key, "a string");
    return json.at(key).get<std::string>();
  }
  std::vector<double> numbers(const std::string& key, std::int64_t count) const {
    absent(key, false);
    const Json& list = json.at(key);
    expect(list.is_array() && list.size() == static_cast<std::size_t>(count) &&
               std::ranges::all_of(list, [](const Json& item) { return item.is_number() && item.get<double>() > 0; }),
           key, concat("a list of ", count, " positive numbers"));
    return list.get<std::vector<double>>();
  }
  std::vector<std::int64_t> integers(const std::string& key) const {
    absent(key, false);
    const auto value = json_as<std::vector<std::int64_t>>(json.at(key));
    expect(value.has_value(), key, "a list of integers");
    return *value;
  }
  std::vector<std::string> texts(const std::string& key, std::int64_t count) const {
    absent(key, false);
    const Json& list = json.at(key);
    expect(list.is_array() && list.size() == static_cast<std::size_t>(count) &&
               std::ranges::all_of(list, [](const Json& item) { return item.is_string(); }),
           key, concat("a list of ", count, " strings"));
    return list.get<std::vector<std::string>>();
  }

  /// The value for `name` in `table` (pairs of name and value). Throws Error listing the names if there is none.
  template <class Table>
  auto choice(const std::string& key, std::string_view name, const Table& table) const {
    std::string names;
    for (const auto& [known, value] : table) {
      if (known == name) return value;
      names += concat(names.empty() ? "" : ", ", known);
    }
    fail(where, ": ", key, " \"", name, "\" is not supported (supported: ", names, ')');
  }

  /// One entry of layer_types.
  struct LayerType {
    std::string name;
    bool slides;
  };
  std::vector<LayerType> layer_types(std::size_t num_layers) const {
    constexpr std::pair<std::string_view, bool> known[] = {
        {"full_attention", false}, {"attention", false}, {"sliding_attention", true}};
    std::vector<LayerType> out;
    for (std::string& name : texts("layer_types", static_cast<std::int64_t>(num_layers)))
      out.push_back({name, choice("layer_types entry", name, known)});
    return out;
  }

 private:
  bool absent(const std::string& key, bool may_be) const {
    if (has(key)) return false;
    check(may_be, where, ": \"", key, "\" is missing");
    return true;
  }
  void expect(bool condition, const std::string& key, std::string_view what) const {
    check(condition, where, ": \"", key, "\" must be ", what, ", got ", json.contains(key) ? shown(json.at(key)) : "");
  }
};

}  // namespace kto::detail
