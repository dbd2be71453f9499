// SPDX-License-Identifier: Apache-2.0
// --help: the options that work, by group, and the names of those that are refused, by reason; at most 100 columns.
#pragma once

#include <ostream>
#include <sstream>

#include "kto/options/option_table.hpp"

namespace kto::cli {

/// A program as --help and --version show it.
struct Program {
  std::string_view name;
  std::string_view version;
  std::string_view usage;    ///< what follows the name in the usage line
  std::string_view summary;  ///< one or more lines
};

inline constexpr std::size_t help_columns = 100;

/// Stands for a space at which a line is not broken.
inline constexpr char hard_space = '\x1f';

/// Prints words after what stands in the first `column` columns of the line, and goes on below them.
inline void wrap(std::ostream& out, const std::string& words, std::size_t indent, std::size_t column) {
  std::istringstream in(words);
  bool first = true;
  for (std::string word; in >> word; first = false) {
    if (!first && column + 1 + word.size() > help_columns) {
      out << '\n' << std::string(indent, ' ');
      column = indent;
    } else if (!first) {
      out << ' ';
      ++column;
    }
    column += word.size();
    std::replace(word.begin(), word.end(), hard_space, ' ');
    out << word;
  }
  out << '\n';
}

inline void show_row(std::ostream& out, std::string head, const std::string& text) {
  constexpr std::size_t indent = 40;
  out << head;
  if (head.size() + 2 > indent) {
    out << '\n';
    head.clear();
  }
  out << std::string(indent - head.size(), ' ');
  wrap(out, text, indent, indent);
}

template <class Config>
void show_option(std::ostream& out, const Options<Config>& options, const Option<Config>& row) {
  if (!row.alias_of.empty()) {
    const Option<Config>& target = *find_option(options, row.alias_of);
    show_row(out, concat("  --", row.name, row.is_flag ? "" : " ", row.is_flag ? "" : target.placeholder),
             concat("same as --", row.alias_of, row.alias_value.empty() ? "" : " ", row.alias_value));
    return;
  }
  const std::string head = concat("  --", row.name, row.placeholder.empty() ? "" : " ", row.placeholder);
  const std::string value = value_text(row.get(Config{}));
  const std::string trl = row.trl_default.empty() ? "" : concat("; TRL's:", hard_space, row.trl_default);
  show_row(out, head,
           concat(row.help, row.required ? " (required)" : concat(" (default:", hard_space, value, trl, ")")));
  for (const Option<Config>& alias : options)
    if (alias.alias_of == row.name) show_option(out, options, alias);
}

/// Under `heading`: for each text that reason(row) gives, which names have it.
template <class Config, class Reason>
void show_reasons(std::ostream& out, std::string_view heading, const Options<Config>& options, const Reason& reason) {
  std::vector<std::pair<std::string_view, std::string>> names;  // by reason, in the order of the table
  for (const Option<Config>& row : options) {
    if (reason(row).empty()) continue;
    auto found = std::find_if(names.begin(), names.end(), [&](auto& entry) { return entry.first == reason(row); });
    if (found == names.end()) found = names.insert(found, {reason(row), concat(reason(row), ":")});
    found->second.append(" ").append(row.name);
  }
  if (!names.empty()) out << '\n' << heading << ":\n";
  for (const auto& [why, words] : names) {
    out << "  ";
    wrap(out, words, 4, 2);
  }
}

/// Which options have other defaults than TRL, and what takes those; empty where none has.
template <class Config>
std::string other_defaults(const Options<Config>& options) {
  std::string out;
  for (const Option<Config>& row : options)
    if (!row.trl_default.empty())
      out += concat(out.empty() ? "" : ", ", row.name, " (", value_text(row.get(Config{})),
                    ", TRL's: ", row.trl_default, ")");
  return out.empty() ? out : out + "; --trl_defaults takes TRL's.";
}

/// Prints the usage line, the options and their defaults.
template <class Config>
void show_help(const Options<Config>& options, const Program& program, std::ostream& out) {
  out << "usage: " << program.name << ' ' << program.usage << "\n\n" << program.summary << "\n\n";
  wrap(out,
       "--flag value and --flag=value are the same; a boolean may stand alone (--bf16), with True or False, or "
       "as --no_bf16; hyphens may stand for underscores; None is no value.",
       0, 0);
  if (!other_defaults(options).empty())
    wrap(out, concat("Names and defaults are those of TRL 1.16, except ", other_defaults(options), "."), 0, 0);
  out << "\nGeneral:\n";
  show_row(out, "  --config FILE", "YAML file of options; those on the command line go before it");
  show_row(out, "  --help, --version", "print and exit; --help=markdown: the whole table");
  std::vector<std::string_view> groups;
  for (const Option<Config>& row : options)
    if (row.works() && std::find(groups.begin(), groups.end(), row.group) == groups.end()) groups.push_back(row.group);
  for (const std::string_view group : groups) {
    out << '\n' << group << ":\n";
    for (const Option<Config>& row : options)
      if (row.works() && row.group == group) show_option(out, options, row);
  }
  show_reasons(out, "Options of TRL that are taken, with a note, and change nothing here", options,
               [](const Option<Config>& row) { return row.without_effect; });
  show_reasons(out, "Options of TRL that are refused; only their defaults may be given", options,
               [](const Option<Config>& row) { return row.is_refused() ? row.reason : std::string_view(); });
}

/// For a cell of a Markdown table.
inline std::string markdown_cell(std::string_view text) {
  std::string out;
  for (const char c : text) out += c == '|' ? "\\|" : std::string(1, c);
  return out;
}

/// The whole table of options as a page in Markdown: name, default, meaning, and what becomes of it here.
template <class Config>
void show_markdown(const Options<Config>& options, const Program& program, std::ostream& out) {
  out << "# Options of " << program.name << "\n\n"
      << "Written by `" << program.name
      << " --help=markdown`; a test compares it with this file. Every option of TRL is here, in one of four states: it "
         "works, it stands for another, it is taken with a note and changes nothing, or it is refused, and only its "
         "default may be given.\n";
  if (!other_defaults(options).empty())
    out << "\nNames and defaults are those of TRL 1.16, except " << other_defaults(options) << "\n";
  std::vector<std::string_view> groups;
  for (const Option<Config>& row : options)
    if (row.works() && std::find(groups.begin(), groups.end(), row.group) == groups.end()) groups.push_back(row.group);
  for (const std::string_view group : groups) {
    out << "\n## " << group << "\n\n| option | default | takes | meaning |\n|---|---|---|---|\n";
    for (const Option<Config>& row : options) {
      if (!row.works() || row.group != group) continue;
      out << "| `" << row.name << "` | "
          << markdown_cell(row.required ? "required" : detail::value_text(row.get(Config{})))
          << (row.trl_default.empty() ? "" : concat(" (TRL: ", row.trl_default, ")")) << " | "
          << markdown_cell(row.expects) << " | " << markdown_cell(row.help);
      if (!row.refused.empty())
        out << "; refused, for " << markdown_cell(row.reason) << ": " << markdown_cell(row.refused);
      out << " |\n";
    }
  }
  out << "\n## Aliases\n\n| option | stands for |\n|---|---|\n";
  for (const Option<Config>& row : options)
    if (!row.alias_of.empty())
      out << "| `" << row.name << "` | `" << row.alias_of << (row.alias_value.empty() ? "" : " ") << row.alias_value
          << "` |\n";
  const auto defaults = [](const Option<Config>& row) {
    return markdown_cell(row.defaults.empty() ? "(empty)" : row.defaults);
  };
  out << "\n## Taken without effect\n\n| option | default | also takes | because |\n|---|---|---|---|\n";
  for (const Option<Config>& row : options)
    if (row.has_no_effect())
      out << "| `" << row.name << "` | " << defaults(row) << " | " << markdown_cell(row.takes) << " | "
          << markdown_cell(row.without_effect)
          << (row.reason.empty() ? "" : concat("; other values are refused: ", markdown_cell(row.reason))) << " |\n";
  out << "\n## Refused\n\n| option | default | because |\n|---|---|---|\n";
  for (const Option<Config>& row : options)
    if (row.is_refused())
      out << "| `" << row.name << "` | " << defaults(row) << " | " << markdown_cell(row.reason) << " |\n";
}

}  // namespace kto::cli
