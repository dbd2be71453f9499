// SPDX-License-Identifier: Apache-2.0
// Works on a table of options: looks up a name, assigns a value, converts a config to JSON and back.
#pragma once

#include "kto/core/edit_distance.hpp"
#include "kto/options/known.hpp"

namespace kto {

/// The row called `name`, or nullptr.
template <class Config>
const Option<Config>* find_option(const Options<Config>& options, std::string_view name) {
  const auto found = std::find_if(options.begin(), options.end(), [&](const auto& row) { return row.name == name; });
  return found == options.end() ? nullptr : &*found;
}

namespace detail {

/// Whether `name` is one of "a|b".
inline bool among(std::string_view name, std::string_view names) {
  const auto pieces = split_bars(names);
  return !name.empty() && std::find(pieces.begin(), pieces.end(), name) != pieces.end();
}

/// Whether `value` equals one of "a|b".
inline bool is_any_of(const Json& value, std::string_view texts) {
  const auto pieces = split_bars(texts);
  return std::any_of(pieces.begin(), pieces.end(), [&](auto text) { return same_value(value, text); });
}

/// Splits "a_b" at the underscores and sorts the words.
inline std::vector<std::string_view> words_of(std::string_view name) {
  std::vector<std::string_view> words;
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('_', begin), name.size());
    words.push_back(name.substr(begin, end - begin));
    begin = end + 1;
  }
  std::sort(words.begin(), words.end());
  return words;
}

/// How far a name is from what the user wrote: the number of edits, or less if `name` contains `written` ("epochs" in
/// "num_train_epochs"), shares its words ("max_length" in "max_seq_length"), or has it as initials ("lr").
inline double unlikeness(std::string_view written, std::string_view name) {
  double cost = static_cast<double>(edit_distance(written, name));
  if (written.size() > 2 && name.find(written) != std::string_view::npos)  // fewer other words are better
    cost = std::min(cost, 1 + 0.1 * static_cast<double>(std::count(name.begin(), name.end(), '_')));
  const auto all = words_of(written), some = words_of(name);
  if (std::includes(all.begin(), all.end(), some.begin(), some.end()))
    cost = std::min(cost, 1 + 0.5 * static_cast<double>(all.size() - some.size()));
  std::string initials;
  for (std::size_t i = 0; i < name.size(); ++i)
    if (i == 0 || name[i - 1] == '_') initials += name[i];
  return written.size() > 1 && initials == written ? std::min(cost, 0.5) : cost;
}

/// "a|b" in words: "a or b".
inline std::string either(std::string_view texts) {
  std::string out;
  for (const std::string_view text : split_bars(texts))
    out += (out.empty() ? "" : " or ") + (text.empty() ? std::string("an empty text") : std::string(text));
  return out;
}

/// Throws the error of a refused option or value; `where` is where it was given.
template <class Config>
[[noreturn]] void refuse(const Option<Config>& row, const Json& value, std::string_view where) {
  const std::string expects = row.works()           ? std::string(row.expects)
                              : row.has_no_effect() ? either(concat(row.takes, '|', row.defaults))
                                                    : "only the default, " + either(row.defaults);
  if (row.reason.empty()) throw UsageError(concat(where, ": expected ", expects, ", got ", quoted(value)));
  throw UsageError(concat(where, ": ", quoted(value), " is refused: ", row.reason, " (expected ", expects, ")"));
}

}  // namespace detail

/// The option name closest to `written`. Prefers options that work, then those accepted without effect.
template <class Config>
std::string_view nearest_option(const Options<Config>& options, std::string_view written) {
  const auto cost = [&](const Option<Config>& row) {
    if (detail::among(written, row.synonyms)) return -1.0;
    return detail::unlikeness(written, row.name) + (row.works() ? 0 : row.is_refused() ? 1.5 : 1);
  };
  const auto nearest =
      std::min_element(options.begin(), options.end(), [&](auto& a, auto& b) { return cost(a) < cost(b); });
  if (nearest == options.end()) return "";
  return nearest->alias_of.empty() || !nearest->alias_value.empty() ? nearest->name : nearest->alias_of;
}

/// Receives a message for the user.
using Note = std::function<void(const std::string&)>;

/// Assigns a value to the option `row`: JSON of its type, or text as on the command line. Throws UsageError if the
/// value is refused or invalid, and calls `note` if it has no effect; both messages start with `where`.
template <class Config>
void assign(const Options<Config>& options, const Option<Config>& row, Config& config, const Json& value,
            std::string_view where, const Note& note = {}) {
  if (!row.alias_of.empty()) {
    const Option<Config>& target = *find_option(options, row.alias_of);
    if (row.alias_value.empty()) {
      if (!detail::same_value(value, "None")) assign(options, target, config, value, where, note);
      return;
    }
    bool given = false;
    if (!detail::decode(value, given))
      throw UsageError(concat(where, ": expected True or False, got ", detail::quoted(value)));
    if (given) assign(options, target, config, Json(row.alias_value), where, note);
    return;
  }
  if (!row.works()) {
    if (detail::is_none(value) || detail::is_any_of(value, row.defaults)) return;
    if (!row.has_no_effect() || !detail::takes_value(row.takes, value)) detail::refuse(row, value, where);
    if (note) note(concat(where, " is taken without effect: ", row.without_effect));
    return;
  }
  const auto is_refused = [&](const Json& one) { return !row.refused.empty() && detail::is_any_of(one, row.refused); };
  if (is_refused(value) || (value.is_array() && std::any_of(value.begin(), value.end(), is_refused)))
    detail::refuse(row, value, where);
  if (!row.set(config, value))
    throw UsageError(concat(where, ": expected ", row.expects, ", got ", detail::quoted(value)));
}

/// Calls note(name, why) for each given option that has no effect with the rest of the config.
template <class Config, class Each>
void visit_unused(const Options<Config>& options, const Config& config, const Each& each) {
  const Config defaults;
  for (const Option<Config>& row : options)
    if (row.unused && row.get(config) != row.get(defaults))
      if (const std::string_view why = row.unused(config); !why.empty()) each(row.name, why);
}

/// Sets TRL's defaults where ours differ.
template <class Config>
void set_trl_defaults(const Options<Config>& options, Config& config) {
  for (const Option<Config>& row : options)
    if (!row.trl_default.empty()) assign(options, row, config, Json(row.trl_default), row.name);
}

/// The values of all options that work, by name.
template <class Config>
Json to_json(const Options<Config>& options, const Config& config) {
  Json out = Json::object();
  for (const Option<Config>& row : options)
    if (row.get) out[std::string(row.name)] = row.get(config);
  return out;
}

/// Assigns the values of a JSON object to `config`. Throws UsageError, starting with `where` (a path), if a key is not
/// an option or a value is refused or invalid. Calls `note` for options without effect.
template <class Config>
void from_json(const Options<Config>& options, Config& config, const Json& object, std::string_view where,
               const Note& note = {}) {
  if (!object.is_object()) throw UsageError(concat(where, ": expected a JSON object"));
  for (const auto& [key, value] : object.items()) {
    const Option<Config>* row = find_option(options, key);
    if (row == nullptr)
      throw UsageError(
          concat(where, ": unknown key ", detail::one_line(key), "; did you mean ", nearest_option(options, key), "?"));
    assign(options, *row, config, value, concat(where, ": ", key), note);
  }
}

/// Throws UsageError if a field of `config` has a value that its option would reject.
template <class Config>
void check_fields(const Options<Config>& options, const Config& config, std::string_view where) {
  Config copy = config;
  for (const Option<Config>& row : options)
    if (row.get) assign(options, row, copy, row.get(config), concat(where, ": ", row.name));
}

}  // namespace kto
