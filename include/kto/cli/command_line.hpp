// SPDX-License-Identifier: Apache-2.0
// Reads a command line over a table of options, as TRL's TrlParser and transformers' HfArgumentParser do.
#pragma once

#include <cstdlib>
#include <iostream>
#include <map>
#include <optional>

#include "kto/cli/help.hpp"
#include "kto/cli/yaml_file.hpp"

namespace kto::cli {

/// `name` with underscores, looked up; "no_NAME" finds the boolean NAME and sets `negated`.
template <class Config>
const Option<Config>* find_flag(const Options<Config>& options, std::string name, bool& negated) {
  std::replace(name.begin(), name.end(), '-', '_');
  negated = false;
  if (const auto* row = find_option(options, name)) return row;
  if (!name.starts_with("no_")) return nullptr;
  const auto* row = find_option(options, name.substr(3));
  negated = row != nullptr && row->is_flag;
  return negated ? row : nullptr;
}

inline bool is_flag_word(std::string_view word) { return word.starts_with("--") || word == "-h"; }

inline void check_utf8(const std::string& word, const char* what) {
  try {
    (void)Json(word).dump();
  } catch (const Json::exception&) {
    throw UsageError(concat(what, " is not UTF-8: ", quoted(Json(word))));
  }
}

/// The command line cut into flags and their values; `config` gets the path that --config names.
template <class Config>
std::vector<Given> read_words(const Options<Config>& options, const std::vector<std::string>& words,
                              std::optional<std::string>& config) {
  std::vector<Given> out;
  for (std::size_t i = 0; i < words.size();) {
    const std::string word = words[i++];
    check_utf8(word, "an argument");
    if (word.size() < 3 || !is_flag_word(word))
      throw UsageError(
          concat("unexpected argument ", quoted(Json(word)), "; a value follows its flag, as in --seed 1"));
    const std::size_t equals = word.find('=');
    const std::string name = word.substr(2, equals == std::string::npos ? equals : equals - 2);
    const std::string flag = "--" + detail::one_line(name);
    bool negated = false;
    const Option<Config>* row = find_flag(options, name, negated);
    if (row == nullptr && name != "config")
      throw UsageError(
          concat("unknown option ", flag, "; did you mean --", nearest_option(options, name.substr(0, 80)), "?"));
    std::vector<std::string> values;
    if (equals != std::string::npos) values.push_back(word.substr(equals + 1));
    const bool any_number = row && (row->is_list || row->is_refused() || row->has_no_effect());
    const std::size_t most = equals != std::string::npos || negated ? 0 : any_number ? words.size() : 1;
    for (std::size_t n = 0; n < most && i < words.size() && !is_flag_word(words[i]); ++n) values.push_back(words[i++]);
    for (const std::string& value : values) check_utf8(value, flag.c_str());
    if (negated && !values.empty())
      throw UsageError(concat(flag, ": expected no value, got ", quoted(Json(values[0]))));
    if (values.empty() && row && row->is_flag) values.push_back(negated ? "False" : "True");
    if (row == nullptr && (values.empty() || values[0].empty())) throw UsageError("--config: expected a file after it");
    if (values.empty())
      throw UsageError(concat(flag, ": expected ", row->expects.empty() ? "a value" : row->expects, " after it"));
    if (row == nullptr && config) throw UsageError("--config is given twice");
    if (row == nullptr)
      config = values[0];
    else
      out.push_back({std::string(row->name), values.size() == 1 ? Json(values[0]) : Json(values), flag});
  }
  return out;
}

/// What a command line and the YAML file that its --config names say, read once.
struct CommandLine {
  std::vector<Given> given;
  YamlFile file;
};

/// Reads a command line. Nothing when it asked for help or the version, which was then printed to `out`. Throws
/// UsageError, one line that names the flag (or file and line), the value, and what was expected.
template <class Config>
std::optional<CommandLine> read_command_line(const Options<Config>& options, const Program& program, int argc,
                                             const char* const* argv, std::ostream& out = std::cout) {
  const std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  for (const std::string& word : words) {
    if (word == "--help" || word == "-h") return show_help(options, program, out), std::nullopt;
    if (word == "--help=markdown") return show_markdown(options, program, out), std::nullopt;
    if (word == "--version") return out << program.name << ' ' << program.version << '\n', std::nullopt;
  }
  CommandLine line;
  std::optional<std::string> path;
  line.given = read_words(options, words, path);
  if (path) line.file = read_yaml(*path);
  return line;
}

/// Sets `config` from a command line, whose flags go before its file, the last of two equal flags before the first; the
/// file's `env` goes into the environment. `note` hears of options that are taken without effect. Throws UsageError as
/// read_command_line does.
template <class Config>
void apply(const Options<Config>& options, const CommandLine& line, Config& config, const Note& note = {}) {
  std::map<std::string, std::string> notes;  // by option: the last place that gave it counts
  const auto take = [&](const Option<Config>& row, const Given& value, Config& into) {
    notes.erase(std::string(row.name));
    assign(options, row, into, value.value, value.where,
           [&](const std::string& text) { notes[std::string(row.name)] = text; });
  };
  for (const Given& value : line.file.values) {
    bool negated = false;
    const auto* row = find_flag(options, value.name, negated);
    if (row == nullptr && value.is_merged) continue;  // it is there to be taken in by others
    if (row == nullptr || negated)
      throw UsageError(
          concat(value.where, ": unknown key; did you mean ", nearest_option(options, value.name.substr(0, 80)), "?"));
    // A flag that stands for another option's value does nothing when False: the command line's must keep the file's
    // from being seen at all.
    const bool overridden =
        !row->alias_value.empty() &&
        std::any_of(line.given.begin(), line.given.end(), [&](const Given& word) { return word.name == row->name; });
    Config unseen = config;
    take(*row, value, overridden ? unseen : config);
  }
  for (const Given& value : line.given) take(*find_option(options, value.name), value, config);
  for (const Option<Config>& row : options)
    if (row.required && row.get(config) == row.get(Config{}))
      throw UsageError(concat("--", row.name, " is required: ", row.help));
  for (const auto& [name, value] : line.file.environment) ::setenv(name.c_str(), value.c_str(), 1);
  if (note)
    for (const auto& [name, text] : notes) note(text);
}

}  // namespace kto::cli
