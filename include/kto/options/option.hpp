// SPDX-License-Identifier: Apache-2.0
// One row of a table of options: how a field of a config is named, described, parsed from text or JSON, checked and
// written. The command line, YAML files and training_args.json all use such a table.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "kto/core/enum_names.hpp"
#include "kto/core/error.hpp"
#include "kto/io/json.hpp"

namespace kto {

/// A condition on a number, and its wording in error messages. `holds` is empty if any value is fine.
struct Range {
  std::string expects;
  std::function<bool(double)> holds;
};

/// One option of a Config, in one of four states: it works (has get and set); it is an alias (alias_of); it is accepted
/// without effect, because nothing here depends on it (without_effect); or it is refused (has a reason, but no set) and
/// accepts only its default, which changes nothing.
template <class Config>
struct Option {
  std::string_view name;         ///< as TRL spells it, without dashes
  std::string_view group = {};   ///< heading in --help
  std::string_view help = {};    ///< meaning
  std::string placeholder = {};  ///< for its value in --help: N, X, a|b|c; empty for booleans
  std::string expects = {};      ///< completes "expected ..."
  bool is_flag = false;          ///< boolean: also without a value, and as --no_NAME
  bool is_list = false;          ///< takes several values
  bool required = false;
  std::function<Json(const Config&)> get = {};
  std::function<bool(Config&, const Json&)> set = {};  ///< false if the value is invalid; then nothing changes
  std::string_view alias_of = {};
  std::string_view alias_value = {};  ///< a flag that, when true, gives alias_of this value
  std::string_view synonyms = {};     ///< names elsewhere, "a|b": used for hints, not accepted
  std::string_view trl_default = {};  ///< TRL's default as text, if ours differs on purpose
  /// Why a given value has no effect with the rest of this config; empty if it may have one.
  std::function<std::string_view(const Config&)> unused = {};
  std::string_view defaults = {};        ///< of an option that does not work, as text: "None|False" if releases differ
  std::string_view without_effect = {};  ///< why it changes nothing here; accepted with a note
  std::string_view takes = {};           ///< the accepted values: "a|b", also TEXT, TEXT..., N, JSON, {key,key}
  std::string_view refused = {};         ///< values of other trainers, known but refused: "a|b"
  std::string_view reason = {};          ///< why the option, or one of its values, is refused

  bool works() const { return static_cast<bool>(set); }
  bool has_no_effect() const { return !without_effect.empty(); }
  bool is_refused() const { return !works() && alias_of.empty() && !has_no_effect(); }
};

template <class Config>
using Options = std::vector<Option<Config>>;

namespace detail {

inline std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

/// Splits "a|b|c" at the bars; "" is one empty piece.
inline std::vector<std::string_view> split_bars(std::string_view text) {
  std::vector<std::string_view> pieces;
  for (;;) {
    const std::size_t bar = text.find('|');
    pieces.push_back(text.substr(0, bar));
    if (bar == std::string_view::npos) return pieces;
    text.remove_prefix(bar + 1);
  }
}

template <class T>
inline constexpr bool is_optional = false;
template <class T>
inline constexpr bool is_optional<std::optional<T>> = true;

template <class T>
inline constexpr bool is_list =
    std::same_as<T, std::vector<std::string>> || std::same_as<T, std::optional<std::vector<std::string>>>;

/// Whether `value` means None: null, or the text None.
inline bool is_none(const Json& value) {
  return value.is_null() || (value.is_string() && (lower(value.get_ref<const std::string&>()) == "none" ||
                                                   lower(value.get_ref<const std::string&>()) == "null"));
}

template <class Number>
bool decode_number(std::string_view text, Number& out) {
  if (text.starts_with('+') && text.substr(1, 1) != "-") text.remove_prefix(1);
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return false;
  out = value;
  return true;
}

inline bool decode(const Json& value, bool& out) {
  if (value.is_boolean()) {
    out = value.get<bool>();
    return true;
  }
  if (!value.is_string()) return false;
  const auto is_one_of =
      [text = lower(value.get_ref<const std::string&>())](std::initializer_list<std::string_view> words) {
        return std::ranges::find(words, text) != words.end();
      };
  const bool yes = is_one_of({"true", "yes", "1", "t", "y", "on"});
  if (!yes && !is_one_of({"false", "no", "0", "f", "n", "off"})) return false;
  out = yes;
  return true;
}

inline bool decode(const Json& value, std::int64_t& out) {
  if (value.is_string()) return decode_number(value.get_ref<const std::string&>(), out);
  const auto number = json_as<std::int64_t>(value);
  out = number.value_or(0);
  return number.has_value();
}

inline bool decode(const Json& value, double& out) {
  if (value.is_string()) return decode_number(value.get_ref<const std::string&>(), out);
  if (!value.is_number()) return false;
  out = value.get<double>();
  return true;
}

inline bool decode(const Json& value, std::string& out) {
  if (!value.is_string() || value.get_ref<const std::string&>().empty()) return false;
  out = value.get<std::string>();
  return true;
}

inline bool decode(const Json& value, std::vector<std::string>& out) {
  const Json list = value.is_array() ? value : Json::array({value});
  std::vector<std::string> texts(list.size());
  for (std::size_t i = 0; i < texts.size(); ++i)
    if (!decode(list[i], texts[i])) return false;
  out = std::move(texts);
  return !out.empty();
}

/// An object, or its JSON text; None is an empty object.
inline bool decode(const Json& value, Json& out) {
  Json object = is_none(value) ? Json::object() : value;
  if (object.is_string()) object = Json::parse(object.get_ref<const std::string&>(), nullptr, false);
  if (!object.is_object()) return false;
  out = std::move(object);
  return true;
}

template <class Enum>
  requires std::is_enum_v<Enum>
bool decode(const Json& value, Enum& out) {
  if (!value.is_string()) return false;
  const auto& names = enum_names<Enum>;
  const auto found = std::find(names.begin(), names.end(), value.get_ref<const std::string&>());
  if (found == names.end()) return false;
  out = static_cast<Enum>(found - names.begin());
  return true;
}

template <class T>
bool decode(const Json& value, std::optional<T>& out) {
  if (is_none(value)) {
    out.reset();
    return true;
  }
  T inner{};
  if (!decode(value, inner)) return false;
  out = std::move(inner);
  return true;
}

template <class T>
Json encode(const T& value) {
  if constexpr (is_optional<T>)
    return value ? encode(*value) : Json(nullptr);
  else if constexpr (std::is_enum_v<T>)
    return Json(enum_name(value));
  else
    return Json(value);
}

/// The value as written on the command line: True, None, 0.5, text.
inline std::string value_text(const Json& value) {
  if (value.is_null()) return "None";
  if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && value.empty()) return "None";
  if (value.is_array() && !value.empty()) {
    std::string joined;
    for (const Json& item : value) joined += (joined.empty() ? "" : " ") + value_text(item);
    return joined;
  }
  if (value.is_number_float()) {
    const double x = value.get<double>();
    if (!std::isfinite(x)) return concat(x);
    if (std::floor(x) == x && std::abs(x) < 1e15) return std::to_string(static_cast<std::int64_t>(x));
  }
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// `value` for messages: in quotes, on one line, shortened.
inline std::string quoted(const Json& value) {
  std::string text = value_text(value);
  constexpr std::size_t most = 80;
  if (text.size() > most) text = text.substr(0, most) + "...";
  return Json(std::move(text)).dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// The same without the quotes, for names.
inline std::string one_line(std::string_view name) {
  const std::string text = quoted(Json(name));
  return text.substr(1, text.size() - 2);
}

/// Whether `value` equals the text of a default.
inline bool same_value(const Json& value, std::string_view default_text) {
  const std::string text = lower(value_text(value)), other = lower(default_text);
  if (text == other || (other == "none" && text == "null")) return true;
  if (double a = 0, b = 0; decode_number(text, a) && decode_number(other, b)) return a == b;
  bool a = false, b = false;
  return (other == "true" || other == "false") && decode(Json(text), a) && decode(Json(other), b) && a == b;
}

template <class T>
Range default_range() {
  if constexpr (is_optional<T>)
    return {"None or " + default_range<typename T::value_type>().expects, {}};
  else if constexpr (std::same_as<T, bool>)
    return {"True or False", {}};
  else if constexpr (std::is_enum_v<T>) {
    std::string all;
    for (const std::string_view name : enum_names<T>) all.append(all.empty() ? "" : ", ").append(name);
    return {"one of " + all, {}};
  } else if constexpr (is_list<T>)
    return {"one or more texts", {}};
  else if constexpr (std::same_as<T, std::string>)
    return {"a text that is not empty", {}};
  else if constexpr (std::same_as<T, Json>)
    return {"None or a JSON object such as {\"name\": 1}", {}};
  else
    return {std::integral<T> ? "an integer" : "a finite number", {}};
}

template <class T>
std::string default_placeholder() {
  if constexpr (is_optional<T>)
    return default_placeholder<typename T::value_type>();
  else if constexpr (std::same_as<T, bool>)
    return "";
  else if constexpr (std::is_enum_v<T>) {
    std::string all;
    for (const std::string_view name : enum_names<T>) all.append(all.empty() ? "" : "|").append(name);
    return all;
  } else
    return is_list<T>                     ? "TEXT..."
           : std::same_as<T, std::string> ? "TEXT"
           : std::same_as<T, Json>        ? "JSON"
           : std::integral<T>             ? "N"
                                          : "X";
}

template <class T>
bool in_range(const T& value, const Range& range) {
  if constexpr (is_optional<T>)
    return !value || in_range(*value, range);
  else if constexpr (std::same_as<T, double>)
    return std::isfinite(value) && (!range.holds || range.holds(value));
  else if constexpr (std::same_as<T, std::int64_t>) {
    const auto x = static_cast<double>(value);  // rounding only affects values beyond every integer range
    return !range.holds || (x < 0x1p63 && static_cast<std::int64_t>(x) == value && range.holds(x));
  } else
    return true;
}

}  // namespace detail

/// The row of an option that works: the field of the config that `field` leads to, a pointer to a member or a function
/// from config to field, under `name`. A range limits its values.
template <class Config, class Field, class T = std::remove_cvref_t<std::invoke_result_t<Field, Config&>>>
Option<Config> option_of(Field field, std::string_view name, std::string_view group, std::string_view help,
                         Range range = detail::default_range<T>()) {
  Option<Config> row{.name = name, .group = group, .help = help, .placeholder = detail::default_placeholder<T>()};
  row.expects = range.expects;
  row.is_flag = std::same_as<T, bool> || std::same_as<T, std::optional<bool>>;
  row.is_list = detail::is_list<T>;
  row.get = [field](const Config& config) { return detail::encode(std::invoke(field, config)); };
  row.set = [field, range = std::move(range)](Config& config, const Json& value) {
    T decoded{};
    if (!detail::decode(value, decoded) || !detail::in_range(decoded, range)) return false;
    std::invoke(field, config) = std::move(decoded);
    return true;
  };
  return row;
}
template <class Config, class T>
Option<Config> option(T Config::* field, std::string_view name, std::string_view group, std::string_view help,
                      Range range = detail::default_range<T>()) {
  return option_of<Config>(field, name, group, help, std::move(range));
}

/// The same row for a config that has `Config` as its member `part`.
template <class Outer, class Config>
Option<Outer> within(Config Outer::* part, const Option<Config>& inner) {
  Option<Outer> row{.name = inner.name,
                    .group = inner.group,
                    .help = inner.help,
                    .placeholder = inner.placeholder,
                    .expects = inner.expects,
                    .is_flag = inner.is_flag,
                    .is_list = inner.is_list,
                    .required = inner.required,
                    .alias_of = inner.alias_of,
                    .alias_value = inner.alias_value,
                    .synonyms = inner.synonyms,
                    .trl_default = inner.trl_default,
                    .defaults = inner.defaults,
                    .without_effect = inner.without_effect,
                    .takes = inner.takes,
                    .refused = inner.refused,
                    .reason = inner.reason};
  if (inner.get) row.get = [part, get = inner.get](const Outer& outer) { return get(outer.*part); };
  if (inner.set) row.set = [part, set = inner.set](Outer& outer, const Json& value) { return set(outer.*part, value); };
  if (inner.unused) row.unused = [part, unused = inner.unused](const Outer& outer) { return unused(outer.*part); };
  return row;
}

}  // namespace kto
