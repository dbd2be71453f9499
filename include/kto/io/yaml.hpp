// SPDX-License-Identifier: Apache-2.0
// Reads YAML as JSON, with yaml-cpp if kto was configured with it. Scalars are kept as text, exactly as written.
#pragma once

#if defined(KTO_HAS_YAML_CPP)
#include <yaml-cpp/yaml.h>
#endif

#include <string>
#include <string_view>
#include <utility>

#include "kto/io/json.hpp"

namespace kto {

#if defined(KTO_HAS_YAML_CPP)
namespace detail {

/// Converts the nodes of one text to JSON. Throws Error if they are too many or too deep: with aliases, a few lines can
/// expand to gigabytes, or to a list that contains itself.
class YamlTexts {
 public:
  explicit YamlTexts(std::string where) : where_(std::move(where)) {}

  Json operator()(const YAML::Node& node, int depth = 1) {
    check(++num_values_ <= max_values && depth <= max_depth, where_, ": more than ", max_values, " values or ",
          max_depth, " levels deep (with aliases expanded)");
    if (node.IsScalar()) return node.Scalar();
    Json out;  // null for YAML's
    if (node.IsSequence()) out = Json::array();
    if (node.IsMap()) out = Json::object();
    if (node.IsSequence())
      for (const YAML::Node& item : node) out.push_back((*this)(item, depth + 1));
    if (node.IsMap())
      for (const auto& entry : node)
        out[entry.first.IsScalar() ? entry.first.Scalar() : "?"] = (*this)(entry.second, depth + 1);
    if (node.IsMap() && out.contains("<<")) {  // merged mappings: the node's own entries win
      const Json others = out["<<"].is_array() ? out["<<"] : Json::array({out["<<"]});
      out.erase("<<");
      for (const Json& other : others)
        for (const auto& [key, value] : other.items())
          if (!out.contains(key)) out[key] = value;
    }
    return out;
  }

 private:
  static constexpr int max_values = 100'000, max_depth = 100;
  std::string where_;
  int num_values_ = 0;
};

}  // namespace detail
#endif

/// The first document of a YAML text, whose first line is line `first_line` of `where`. Throws Error, starting with
/// `where`, if it is not YAML or if kto was configured without yaml-cpp.
inline Json parse_yaml([[maybe_unused]] const std::string& text, const std::string& where,
                       [[maybe_unused]] int first_line = 1) {
#if defined(KTO_HAS_YAML_CPP)
  try {
    return detail::YamlTexts(where)(YAML::Load(text));
  } catch (const YAML::Exception& error) {
    fail(where, ": line ", error.mark.line + first_line, ": not valid YAML: ", error.msg);
  }
#else
  fail(where,
       ": this program was built without yaml-cpp, which reads YAML; install libyaml-cpp-dev (Debian) and build ",
       "again");
#endif
}

}  // namespace kto
