// SPDX-License-Identifier: Apache-2.0
// The file of --config: a YAML mapping from option names to values, and `env`, a mapping of environment variables.
// Mappings take in others by <<, as PyYAML has it.
#pragma once

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <charconv>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "kto/options/option_table.hpp"

namespace kto::cli {

/// A value for an option, and the place that gave it: "--seed", or "run.yaml: line 3: seed".
struct Given {
  std::string name;
  Json value;
  std::string where;
  bool is_merged = false;  ///< a mapping that another one of the file takes in by <<
};

struct YamlFile {
  std::vector<Given> values;
  std::vector<std::pair<std::string, std::string>> environment;
};

/// Whether a YAML text goes on after its first document. (YAML::LoadAll never comes back from some broken texts.)
inline bool has_second_document(const std::string& text) {
  struct Nothing final : YAML::EventHandler {
    using Mark = YAML::Mark;
    using Anchor = YAML::anchor_t;
    using Style = YAML::EmitterStyle::value;
    void OnDocumentStart(const Mark&) override {}
    void OnDocumentEnd() override {}
    void OnNull(const Mark&, Anchor) override {}
    void OnAlias(const Mark&, Anchor) override {}
    void OnScalar(const Mark&, const std::string&, Anchor, const std::string&) override {}
    void OnSequenceStart(const Mark&, const std::string&, Anchor, Style) override {}
    void OnSequenceEnd() override {}
    void OnMapStart(const Mark&, const std::string&, Anchor, Style) override {}
    void OnMapEnd() override {}
  } nothing;
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  return parser.HandleNextDocument(nothing) && parser.HandleNextDocument(nothing);
}

/// A scalar's text; an integer that YAML 1.1 spells in a way of its own (1_000, 0x10, 0b11, the octal 010) as decimal
/// digits.
inline std::string scalar_text(const YAML::Node& node) {
  const std::string& text = node.Scalar();
  if (node.Tag() != "?" || text.empty()) return text;
  const std::size_t sign = text[0] == '-' || text[0] == '+' ? 1 : 0;
  std::string digits = text.substr(sign);
  if (digits.empty() || digits[0] < '0' || digits[0] > '9') return text;
  std::erase(digits, '_');
  int base = 10;
  std::size_t prefix = 0;
  if (digits.size() > 1 && digits[0] == '0') {
    base = digits[1] == 'x' ? 16 : digits[1] == 'b' ? 2 : 8;
    prefix = base == 8 ? 1 : 2;
  }
  std::int64_t value = 0;
  const char* end = digits.data() + digits.size();
  const auto read = std::from_chars(digits.data() + prefix, end, value, base);
  if (read.ec != std::errc() || read.ptr != end || value < 0) return text;
  return (text[0] == '-' ? "-" : "") + std::to_string(value);
}

/// Reads the nodes of one file. Throws UsageError naming file and line when its values are too many or too deep (with
/// aliases a few lines can stand for gigabytes, or for a list that holds itself), and for a merge of what is no
/// mapping.
class YamlReader {
 public:
  using Entry = std::pair<YAML::Node, YAML::Node>;

  explicit YamlReader(const fs::path& path) : path_(path.string()) {}

  std::string place(const YAML::Node& node) const { return concat(path_, ": line ", node.Mark().line + 1); }

  /// The entries of a mapping, and after them those that it takes in by YAML 1.1's merge key (<<: *other, or
  /// <<: [*one, *other]) where it has no such key of its own.
  std::vector<Entry> entries(const YAML::Node& map, int depth = 1) {
    std::vector<Entry> out;
    std::vector<YAML::Node> others;
    std::set<std::string> keys;
    for (const auto& entry : map) {
      if (!is_merge_key(entry.first)) {
        out.emplace_back(entry.first, entry.second);
        if (entry.first.IsScalar()) keys.insert(entry.first.Scalar());
      } else if (entry.second.IsSequence()) {
        for (const YAML::Node& other : entry.second) others.push_back(other);
      } else {
        others.push_back(entry.second);
      }
    }
    for (const YAML::Node& other : others) {
      take(other, depth);
      if (!other.IsMap())
        throw UsageError(concat(place(other), ": expected a mapping, or a list of mappings, after <<"));
      merged_.push_back(other);
      for (Entry& entry : entries(other, depth + 1)) {
        take(entry.second, depth);
        if (!entry.first.IsScalar() || keys.insert(entry.first.Scalar()).second) out.push_back(std::move(entry));
      }
    }
    return out;
  }

  /// Whether a mapping was taken in by another one.
  bool is_merged(const YAML::Node& node) const {
    return std::any_of(merged_.begin(), merged_.end(), [&](const YAML::Node& other) { return other.is(node); });
  }

  /// What a node inside a mapping is in JSON: plain scalars are booleans and numbers where they read so.
  Json json(const YAML::Node& node, int depth = 1) {
    take(node, depth);
    if (node.IsNull()) return nullptr;
    Json out;
    if (node.IsMap()) {
      out = Json::object();
      for (const auto& [key, value] : entries(node, depth))
        out[key.IsScalar() ? key.Scalar() : "?"] = json(value, depth + 1);
    } else if (node.IsSequence()) {
      out = Json::array();
      for (const YAML::Node& item : node) out.push_back(json(item, depth + 1));
    } else {
      const std::string written = scalar_text(node);
      out = written;
      std::int64_t whole = 0;
      double number = 0;
      const std::string text = detail::lower(written);
      if (node.Tag() != "?") return out;
      if (text == "true" || text == "false")
        out = text == "true";
      else if (detail::decode_number(written, whole))
        out = whole;
      else if (detail::decode_number(written, number))
        out = number;
    }
    return out;
  }

  /// Plain and quoted scalars as text, except that a plain null is null; lists of them; mappings as JSON.
  Json value(const YAML::Node& node) {
    if (node.IsNull()) return nullptr;
    if (node.IsScalar()) return scalar_text(node);
    if (node.IsMap()) return json(node);
    Json list = Json::array();
    for (const YAML::Node& item : node)
      if (item.IsScalar())
        list.push_back(scalar_text(item));
      else
        list.push_back(item.IsNull() ? Json("None") : json(item));
    return list;
  }

 private:
  static bool is_merge_key(const YAML::Node& key) {
    return key.IsScalar() && key.Scalar() == "<<" && key.Tag() == "?";  // not in quotes
  }

  void take(const YAML::Node& node, int depth) {
    if (++num_values_ > max_values || depth > max_depth)
      throw UsageError(concat(place(node), ": more than ", max_values, " values, or more than ", max_depth,
                              " levels deep, aliases written out"));
  }

  static constexpr int max_values = 100'000, max_depth = 100;
  std::string path_;
  int num_values_ = 0;
  std::vector<YAML::Node> merged_;
};

/// As Python's str() shows what PyYAML reads.
inline std::string environment_value(const YAML::Node& node) {
  if (node.IsNull()) return "None";
  const std::string text = node.Scalar();
  const bool plain = node.Tag() == "?";
  for (const std::string_view word : {"true", "yes", "on"})
    if (plain && detail::lower(text) == word) return "True";
  for (const std::string_view word : {"false", "no", "off"})
    if (plain && detail::lower(text) == word) return "False";
  return text;
}

/// Reads a YAML file. Throws UsageError naming file and line when it cannot be read, is not YAML, or is not a mapping.
inline YamlFile read_yaml(const fs::path& path) {
  const auto bad = [](const auto&... parts) -> UsageError { return UsageError(concat(parts...)); };
  YAML::Node root;
  bool several = false;
  try {
    const std::string text = read_file(path);
    root = YAML::Load(text);
    several = has_second_document(text);
  } catch (const YAML::Exception& error) {
    throw bad(path.string(), ": line ", error.mark.line + 1, ": not valid YAML: ", error.msg);
  } catch (const Error& error) {
    throw bad(error.what());
  }
  if (several || !root.IsMap()) throw bad(path.string(), ": expected one YAML mapping of option names to values");
  YamlFile out;
  YamlReader reader(path);
  std::set<std::string> seen;
  std::vector<YAML::Node> nodes;
  for (const auto& [name, value] : reader.entries(root)) {
    const std::string where = reader.place(name);
    if (!name.IsScalar()) throw bad(where, ": expected the name of an option before the colon");
    const std::string& key = name.Scalar();
    if (!seen.insert(key).second) throw bad(where, ": ", detail::quoted(Json(key)), " is given twice");
    if (key != "env") {
      out.values.push_back({key, reader.value(value), concat(where, ": ", detail::one_line(key))});
      nodes.push_back(value);
      continue;
    }
    if (!value.IsMap()) throw bad(where, ": expected env to be a mapping of environment variables to values");
    for (const auto& [variable, text] : reader.entries(value)) {
      const bool scalars = variable.IsScalar() && (text.IsScalar() || text.IsNull());
      if (!scalars || variable.Scalar().empty() || variable.Scalar().find('=') != std::string::npos)
        throw bad(reader.place(variable), ": expected env to map names of variables to plain values");
      out.environment.emplace_back(variable.Scalar(), environment_value(text));
    }
  }
  for (std::size_t i = 0; i < nodes.size(); ++i) out.values[i].is_merged = reader.is_merged(nodes[i]);
  return out;
}

}  // namespace kto::cli
