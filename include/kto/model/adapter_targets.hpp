// SPDX-License-Identifier: Apache-2.0
// Resolves the modules that an adapter's configuration names: where it may be, which modules are trained whole, and
// what the embedding and a tied head share. Refuses what PEFT would refuse or could not read back.
#pragma once

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "kto/core/edit_distance.hpp"
#include "kto/model/config.hpp"
#include "kto/model/folds.hpp"
#include "kto/model/lora_config.hpp"

namespace kto::detail {

/// A trainable copy of a weight: requires a gradient, in float32 or wider.
inline Tensor trained_copy(const Tensor& weight) {
  return weight.detach().to(wide_type(weight.scalar_type()), /*non_blocking=*/false, /*copy=*/true).requires_grad_();
}

/// A module that an adapter may be on: a linear layer or the embedding.
struct AdaptablePlace {
  Tensor& weight;
  Tensor* bias_O;  ///< null for the embedding and the head, which have no bias
  std::optional<LoraWeights>& lora;
  bool is_embedding = false;
  bool is_transposed = false;  ///< the weight is [inputs, outputs]

  Tensor weight_OI() const { return is_transposed ? weight.t() : weight; }
  void set_weight(const Tensor& weight_OI) { weight = is_transposed ? weight_OI.t().contiguous() : weight_OI; }
};

/// "wte" of "transformer.wte".
inline std::string last_part(const std::string& path) { return path.substr(path.rfind('.') + 1); }

/// Calls visit(path, AdaptablePlace) for all such modules.
template <class Visit>
void visit_adaptable(Decoder& decoder, const Visit& visit) {
  const std::vector<std::string> of_experts = lora_names_of_experts(decoder.spec);
  visit_modules(decoder, [&](const std::string& path, auto& module, const ModuleShape&) {
    using Module = decltype(module);
    if (std::ranges::find(of_experts, last_part(path)) != of_experts.end()) return;
    if constexpr (is_a<Module, Linear>) {
      visit(path, AdaptablePlace{module.weight_OI, &module.bias_O, module.lora, false, module.is_transposed});
    } else if constexpr (is_a<Module, kto::Embedding>) {
      visit(path, AdaptablePlace{module.weight_VD, nullptr, module.lora, true, true});
    } else if constexpr (is_a<Module, OutputHead>) {
      Tensor& weight_VD = module.weight_VD.defined() ? module.weight_VD : decoder.embed_tokens.weight_VD;
      visit(path, AdaptablePlace{weight_VD, nullptr, module.lora});
    }
  });
}

/// A path as a regular expression for itself.
inline std::string escaped(const std::string& path) {
  std::string out;
  for (const char c : path) out += c == '.' ? std::string("\\.") : std::string(1, c);
  return out;
}

struct ModulePaths {
  std::set<std::string> adaptable;
  std::set<std::string> all;  ///< modules with parameters, and the modules that contain them
  std::string embedding, head;
  std::set<std::string> lists;          ///< of layers
  std::vector<std::string> of_experts;  ///< last parts of paths that PEFT does not take for linear layers
  std::set<std::string> experts;        ///< modules of experts
};

inline ModulePaths module_paths(Decoder decoder) {
  const ModuleNames& names = decoder.spec.names;
  ModulePaths out{{}, {names.head}, names.embedding, names.head, {names.layers}, lora_names_of_experts(decoder.spec),
                  {}};
  visit_modules(decoder, [&](const std::string& path, auto& module, const ModuleShape&) {
    if constexpr (is_a<decltype(module), Experts>) out.experts.insert(path);
  });
  for (const Decoder& encoder : decoder.encoder) out.lists.insert(encoder.spec.names.layers);
  visit_adaptable(decoder, [&](const std::string& path, auto&&) { out.adaptable.insert(path); });
  visit_parameters(decoder, [&](const std::string& name, const Tensor&, const auto&) {
    for (std::size_t end = name.rfind('.'); end != std::string::npos;
         end = end == 0 ? name.npos : name.rfind('.', end - 1))
      out.all.insert(name.substr(0, end));
  });
  return out;
}

[[noreturn]] inline void refuse_name(const char* key, const std::string& name, const std::set<std::string>& known) {
  std::set<std::string> parts;
  for (const std::string& path : known) parts.insert(last_part(path));
  std::vector<std::string> near(parts.begin(), parts.end());
  std::ranges::stable_sort(near, [&](const std::string& a, const std::string& b) {
    return edit_distance(a, name) < edit_distance(b, name);
  });
  std::string list;
  for (std::size_t i = 0; i < std::min<std::size_t>(near.size(), 7); ++i) list += (i > 0 ? ", " : "") + near[i];
  fail(key, ": no module of the model matches \"", name, "\"; nearest: ", list);
}

inline bool any_ends_in(const std::set<std::string>& paths, const std::string& name) {
  return std::ranges::any_of(paths, [&](const std::string& path) { return LoraConfig::ends_in(path, name); });
}
inline bool any_saved_as(const std::set<std::string>& paths, const std::string& name) {
  return std::ranges::any_of(paths, [&](const std::string& path) { return path.ends_with(name); });
}

/// Throws Error if a named target or saved module is missing, or if a module has two conflicting roles.
inline void check_targets(const LoraConfig& config, const ModulePaths& paths) {
  for (const std::string& name : config.target_modules)
    check(std::ranges::find(paths.of_experts, last_part(name)) == paths.of_experts.end(), "target_modules: ", name,
          " stands for parameters of experts in PEFT, which are not supported; name linear layers of the attention");
  for (const std::string& experts : paths.experts)
    for (const std::string& name : paths.of_experts)
      check(config.target_pattern == "all-linear" || !config.targets(experts + '.' + name),
            "target_modules: ", config.target_pattern, " also matches ", experts, '.', name,
            ", which stands for parameters of experts in PEFT, which are not supported");
  for (const std::string& name : config.target_modules)
    if (!any_ends_in(paths.adaptable, name)) refuse_name("target_modules", name, paths.adaptable);
  for (const std::string& name : config.modules_to_save)
    if (!any_saved_as(paths.all, name)) refuse_name("modules_to_save", name, paths.all);
  for (const std::string& path : paths.all) {
    const auto is = [&](const std::string& name) { return path.ends_with(name); };
    if (std::ranges::none_of(config.modules_to_save, is)) continue;
    check(!paths.lists.contains(path + '.'), "modules_to_save has ", path, ", which is a list: name modules in it");
    const std::size_t dot = path.rfind('.');
    check(dot == path.npos || !config.saves(path.substr(0, dot)), "modules_to_save has ", path,
          " and also a module that contains it");
  }

  bool any = false;
  for (const std::string& path : paths.all) {
    const bool is_adaptable = paths.adaptable.contains(path);
    if (!config.targets(path) || (config.target_pattern == "all-linear" && !is_adaptable)) continue;
    any = true;
    check(is_adaptable, "target_modules: ", config.target_pattern, " also matches ", path,
          ", which is neither a linear layer nor the embedding");
    check(!config.saves(path), "modules_to_save has ", path, ", which is also among target_modules");
    check(!config.lora_bias || path != paths.embedding, "lora_bias: the adapter of an embedding has no bias");
  }
  const bool named = !config.exclude_modules.empty() || !config.exclude_pattern.empty() ||
                     !config.modules_to_save.empty() || !config.layers_to_transform.empty();
  if (!any && !named) refuse_name("target_modules", config.target_pattern, paths.adaptable);
  check(any, "no module is left to adapt: exclude_modules, modules_to_save or layers_to_transform rule out all of ",
        "target_modules");
}

/// The names that all-linear stands for.
inline std::set<std::string> linear_names(const LoraConfig& config, const ModulePaths& paths) {
  std::set<std::string> out;
  for (const std::string& path : paths.adaptable)
    if (config.targets(path)) out.insert(last_part(path));
  return out;
}

/// In a model with experts, names the targets of all-linear: PEFT would add routers and experts to them.
inline void keep_from_experts(LoraConfig& config, const ModelSpec& spec, const ModulePaths& paths) {
  const auto has_experts = [](const LayerSpec& layer) { return layer.experts.has_value(); };
  if (config.target_pattern != "all-linear" || std::ranges::none_of(spec.layers, has_experts)) return;
  const auto names = linear_names(config, paths);
  config.target_modules.assign(names.begin(), names.end());
  config.target_pattern.clear();
}

/// In a multimodal model, turns names of targets into a pattern for modules of the decoder: the other parts have
/// modules of the same names.
inline void keep_to_decoder(LoraConfig& config, const ModuleNames& names, const ModulePaths& paths) {
  const bool all_linear = config.target_pattern == "all-linear";
  if (names.wrapper.empty() || (config.target_modules.empty() && !all_linear)) return;
  if (!config.layers_to_transform.empty()) return;  // needs names
  std::set<std::string> targets(config.target_modules.begin(), config.target_modules.end());
  if (all_linear) targets.merge(linear_names(config, paths));
  std::string any;
  for (const std::string& name : targets) any += (any.empty() ? "" : "|") + escaped(name);
  config.target_modules.clear();
  config.target_pattern = concat("(?:", escaped(names.wrapper_path), "(?:.*\\.)?)?(?:", any, ")");
}

/// Removes names that match nothing from a file's configuration, if others match: PEFT ignores them.
inline void drop_unmatched_names(LoraConfig& config, const ModulePaths& paths) {
  const auto unmatched = [&](const std::string& name) { return !any_ends_in(paths.adaptable, name); };
  if (!std::ranges::all_of(config.target_modules, unmatched)) std::erase_if(config.target_modules, unmatched);
  std::erase_if(config.modules_to_save, [&](const std::string& name) { return !any_saved_as(paths.all, name); });
}

/// Parts of an adapter that the head shares with the embedding besides its weight.
struct TiedParts {
  bool lora = false, saved = false;
};

/// With ensure_weight_tying on a model whose head is the embedding: naming either of them names the embedding, and the
/// head shares its adapter.
inline TiedParts tie_targets(LoraConfig& config, const Decoder& base) {
  if (!config.ensure_weight_tying || !base.spec.tie_word_embeddings) return {};
  const std::string &embedding_path = base.spec.names.embedding, &head_path = base.spec.names.head,
                    embedding_name = last_part(embedding_path);
  const auto is_either = [&](const std::string& name) {
    return LoraConfig::ends_in(name, embedding_name) || LoraConfig::ends_in(name, head_path);
  };
  const auto move_to_embedding = [&](std::vector<std::string>& names) {
    std::erase(names, head_path);
    if (std::ranges::find(names, embedding_path) == names.end()) names.push_back(embedding_path);
  };
  if (std::ranges::any_of(config.modules_to_save, is_either)) {
    move_to_embedding(config.modules_to_save);
    return {.saved = true};
  }
  std::string& pattern = config.target_pattern;
  const bool by_pattern =
      !pattern.empty() && (LoraConfig::matches(pattern, embedding_name) || LoraConfig::matches(pattern, head_path));
  if (!by_pattern && std::ranges::none_of(config.target_modules, is_either)) return {};
  if (!by_pattern)
    move_to_embedding(config.target_modules);
  else if (!LoraConfig::matches(pattern, embedding_path))
    pattern = "(?:" + pattern + "|^" + escaped(embedding_path) + "$)";
  check(!config.use_dora, "use_dora is not supported for an embedding and a head that ensure_weight_tying ties");
  return {.lora = true};
}

/// Sets up the trained rows of the embedding and the head; a tied head without rows of its own uses the embedding's.
inline void add_trained_rows(Decoder& policy, const LoraConfig& config, const ModulePaths& paths) {
  const std::string &embedding_path = paths.embedding, &head_path = paths.head;
  const auto add = [&](const std::string& path, const Tensor& weight_VD, const std::vector<std::int64_t>& ids,
                       std::optional<TrainedRows>& rows) {
    const std::int64_t V = weight_VD.size(0);
    for (const std::int64_t id : ids)
      check(id >= 0 && id < V, "trainable_token_indices: ", path, " has ", V, " tokens, but not ", id);
    check(std::set(ids.begin(), ids.end()).size() == ids.size(), "trainable_token_indices: ", path,
          " has a token twice");
    check(!config.saves(path) && !config.targets(path), "trainable_token_indices: ", path,
          " is also among target_modules or modules_to_save");
    const Tensor ids_K = at::tensor(at::ArrayRef<std::int64_t>(ids), at::kLong).to(weight_VD.device());
    rows = TrainedRows{ids_K, trained_copy(weight_VD.index_select(0, ids_K))};
  };
  auto indices = config.trainable_token_indices;
  for (auto& [name, ids] : indices)
    if (name == "embed_tokens") name = last_part(embedding_path);  // what a plain list is read as
  const std::vector<std::int64_t>*of_embedding = nullptr, *of_head = nullptr;
  for (const auto& [name, ids] : indices)
    for (const std::string& path : paths.all) {
      if (!path.ends_with(name)) continue;
      check(path == embedding_path || path == head_path, "trainable_token_indices: ", name, " also names ", path,
            ", which has no tokens");
      (path == head_path ? of_head : of_embedding) = &ids;
    }
  for (const auto& [name, ids] : indices)
    if (!any_saved_as(paths.all, name)) refuse_name("trainable_token_indices", name, {embedding_path, head_path});
  const bool tied = policy.spec.tie_word_embeddings, both = of_embedding != nullptr && of_head != nullptr;
  check(!both || !tied || !config.ensure_weight_tying || *of_embedding == *of_head,
        "trainable_token_indices: ensure_weight_tying needs the same tokens for ", embedding_path, " and ", head_path);
  if (both && tied && *of_embedding == *of_head) of_head = nullptr;
  if (of_embedding != nullptr)
    add(embedding_path, policy.embed_tokens.weight_VD, *of_embedding, policy.embed_tokens.rows);
  if (of_head != nullptr) add(head_path, policy.head().weight_VD, *of_head, policy.lm_head.rows);
  check(!policy.embed_tokens.rows || policy.lm_head.rows || !tied || !policy.head_lora(),
        "trainable_token_indices: the head is the embedding and has an adapter of its own");
}

}  // namespace kto::detail
