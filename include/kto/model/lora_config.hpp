// SPDX-License-Identifier: Apache-2.0
// The configuration of a LoRA adapter (arXiv:2106.09685; rsLoRA arXiv:2312.03732; DoRA arXiv:2402.09353) and PEFT's
// rules for the modules it applies to. Free of LibTorch.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/text/regex/regex.hpp"

namespace kto {

/// Values by module: each key is a regular expression for the end of a module's path; the first match wins.
template <class Value>
using ModulePatterns = std::vector<std::pair<std::string, Value>>;

/// Which biases of the base are trained and saved along with the matrices.
enum class LoraBias { none, all, lora_only };

struct LoraConfig {
  std::int64_t r = 16;
  double lora_alpha = 32;
  double lora_dropout = 0.05;
  std::vector<std::string> target_modules = {};  ///< names: the last parts of module paths
  std::string target_pattern = "";               ///< instead of names: "all-linear", or a regular expression for a path
  std::vector<std::string> exclude_modules = {};  ///< names
  std::string exclude_pattern = "";               ///< instead of names: a regular expression for a path
  std::vector<std::string> modules_to_save = {};  ///< modules trained whole, including all inside them
  LoraBias bias = LoraBias::none;                 ///< biases of the base that are trained
  bool lora_bias = false;                         ///< B has a bias
  bool use_rslora = false;
  bool use_dora = false;
  std::vector<std::int64_t> layers_to_transform = {};  ///< layers of modules matched by name; empty: all
  std::vector<std::string> layers_pattern = {};        ///< names before a layer's number; empty: any
  ModulePatterns<std::int64_t> rank_pattern = {};      ///< instead of r
  ModulePatterns<double> alpha_pattern = {};           ///< instead of lora_alpha
  /// Rows of the embedding or head to train, by the end of the module's path.
  ModulePatterns<std::vector<std::int64_t>> trainable_token_indices = {};
  bool ensure_weight_tying = false;  ///< if embedding and head are one weight, they share what is trained
  /// How A and B are initialised, as in PEFT: true, false, gaussian, orthogonal, mica, pissa, olora. The last two
  /// subtract the start from the base's weight, each time the adapter is added to it.
  std::string init_lora_weights = "true";
  bool fan_in_fan_out = false;  ///< whether it is on weights stored as [inputs, outputs]: set by the model
  std::string task_type = "CAUSAL_LM";
  std::string base_model_name_or_path = "";  ///< folder, or name on the hub
  std::string revision = "main";             ///< of the base on the hub

  /// The rank of the module at that path: its rank_pattern, or r.
  std::int64_t rank_of(const std::string& module) const { return pattern_value(rank_pattern, module, r); }
  /// The factor on B A.
  double scaling_of(const std::string& module) const {
    const auto rank = static_cast<double>(rank_of(module));
    return pattern_value(alpha_pattern, module, lora_alpha) / (use_rslora ? std::sqrt(rank) : rank);
  }
  /// Whether a linear layer or the embedding gets an adapter. `module` is its path ("model.layers.0.mlp.up_proj").
  bool targets(const std::string& module) const {
    if (excludes(module)) return false;
    if (target_pattern == "all-linear") return !is_embedding_or_head(module);
    if (!target_pattern.empty()) return matches(target_pattern, module);
    if (std::ranges::find(target_modules, module) != target_modules.end()) return true;
    return names_end(target_modules, module) && in_layers(module);
  }
  /// Whether a module is trained whole, itself or as part of another. As in PEFT, names need not begin at a dot.
  bool saves(const std::string& module) const {
    for (std::size_t end = module.find('.');; end = module.find('.', end + 1)) {
      const std::string_view part = std::string_view(module).substr(0, end);
      for (const std::string& name : modules_to_save)
        if (part.ends_with(name)) return true;
      if (end == std::string::npos) return false;
    }
  }
  /// Whether the adapter's start is subtracted from the base's weight.
  bool changes_base() const { return init_lora_weights.starts_with("pissa") || init_lora_weights == "olora"; }

  bool operator==(const LoraConfig&) const = default;

  /// Whether `name` is the last part of the path, or all of it.
  static bool ends_in(const std::string& module, const std::string& name) {
    return module == name || module.ends_with("." + name);
  }
  /// Whether the whole of a module's path matches a regular expression.
  static bool matches(const std::string& pattern, const std::string& module) {
    return match_end("^(?:" + pattern + ")$", module) == module.size();
  }

 private:
  static bool is_embedding_or_head(const std::string& module) {
    return names_end({"lm_head", "embed_out", "embed_tokens", "embed_in", "wte", "word_embeddings", "shared"}, module);
  }
  static bool names_end(const std::vector<std::string>& names, const std::string& module) {
    return std::ranges::any_of(names, [&](const std::string& name) { return ends_in(module, name); });
  }
  /// The end of a match at the beginning of a module's path.
  static std::optional<std::size_t> match_end(const std::string& pattern, const std::string& module) {
    std::optional<std::size_t> found;
    tok::Regex(pattern, "LoRA module pattern").for_each_match(module, [&](std::size_t begin, std::size_t end) {
      if (begin == 0 && !found) found = end;
    });
    return found;
  }
  bool excludes(const std::string& module) const {
    if (names_end(exclude_modules, module) || (!exclude_pattern.empty() && matches(exclude_pattern, module)))
      return true;
    return std::ranges::any_of(modules_to_save, [&](const std::string& name) {  // including their submodules
      return matches("(?:.*\\.)?(?:" + name + ")(?:\\..*)?", module);
    });
  }
  /// Whether the first number in a module's path, or the one after layers_pattern, is in layers_to_transform.
  bool in_layers(const std::string& module) const {
    if (layers_to_transform.empty()) return true;
    std::optional<std::size_t> at;
    if (layers_pattern.empty()) at = match_end("^.*?\\.[^.]*\\.(?=\\d+\\.)", module);
    for (const std::string& pattern : layers_pattern)
      if (!at) at = match_end("^(?:|.*?\\.)(?:" + pattern + ")\\.(?=\\d+\\.)", module);
    if (!at) return false;
    const std::string number = module.substr(*at, module.find('.', *at) - *at);
    return std::ranges::any_of(layers_to_transform, [&](std::int64_t i) { return std::to_string(i) == number; });
  }
  template <class Value>
  static Value pattern_value(const ModulePatterns<Value>& patterns, const std::string& module, Value otherwise) {
    for (const auto& [key, value] : patterns)
      if (matches("(?:.*\\.)?(?:" + key + ")", module)) return value;
    return otherwise;
  }
};

}  // namespace kto
