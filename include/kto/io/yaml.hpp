// SPDX-License-Identifier: Apache-2.0
// YAML as JSON whose scalars are texts as they are written, by yaml-cpp, where kto was configured with it.
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

/// Makes JSON of the nodes of one text. Throws Error when they are too many or too deep: with aliases a few lines can
/// stand for gigabytes, or for a list that holds itself.
class YamlTexts {
 public:
  explicit YamlTexts(std::string where) : where_(std::move(where)) {}

  Json operator()(const YAML::Node& node, int depth = 1) {
    check(++num_values_ <= max_values && depth <= max_depth, where_, ": more than ", max_values,
          " values, or more than ", max_depth, " levels deep, aliases written out");
    if (node.IsScalar()) return node.Scalar();
    Json out;  // null for YAML's
    if (node.IsSequence()) out = Json::array();
    if (node.IsMap()) out = Json::object();
    if (node.IsSequence())
      for (const YAML::Node& item : node) out.push_back((*this)(item, depth + 1));
    if (node.IsMap())
      for (const auto& entry : node)
        out[entry.first.IsScalar() ? entry.first.Scalar() : "?"] = (*this)(entry.second, depth + 1);
    if (node.IsMap() && out.contains("<<")) {  // entries of other mappings, under those of its own
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

/// The first document of a YAML text, whose first line is `first_line` of `where`. Throws Error, which opens with
/// `where`, when it is not YAML, or when kto was configured without yaml-cpp.
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
