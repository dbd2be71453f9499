// SPDX-License-Identifier: Apache-2.0
// The names of a decoder's parameters in files, where they differ from those in transformers' modules: a bare backbone
// omits a prefix, and transformers stores some heads, routers, experts and the decoders of multimodal models under other
// names.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "kto/io/checkpoint.hpp"
#include "kto/model/spec.hpp"

namespace kto::detail {

/// "model.layers.3." and "mlp.gate.weight" of "model.layers.3.mlp.gate.weight"; the first is empty for other names.
inline std::pair<std::string, std::string> split_layer(const ModuleNames& names, const std::string& name) {
  const std::string& layers = names.layers;
  const std::size_t dot = name.starts_with(layers) ? name.find('.', layers.size()) : name.npos;
  return dot == name.npos ? std::pair<std::string, std::string>{"", name}
                          : std::pair{name.substr(0, dot + 1), name.substr(dot + 1)};
}

/// The name that files have for a parameter of experts or a router which they hold whole; others' is their own.
inline std::string written_expert_name(const ModuleNames& all_names, const std::string& name) {
  const ExpertsNames& names = all_names.layer.experts;
  const auto [layer, rest] = split_layer(all_names, name);
  if (names.files == ExpertFiles::fused || layer.empty()) return name;
  if (!names.stored_router.empty() && rest.starts_with(names.router + "."))
    return layer + names.stored_router + rest.substr(names.router.size());
  if (names.files == ExpertFiles::renamed && rest == names.experts + ".gate_up_proj")
    return layer + names.stored_gate_up;
  if (names.files == ExpertFiles::renamed && rest == names.experts + ".down_proj") return layer + names.stored_down;
  return name;
}

/// A parameter's name as transformers writes it into new files.
inline std::string written_name(const ModuleNames& names, const std::string& name) {
  const bool of_head = !names.stored_head.empty() && name.starts_with(names.head + ".");
  return of_head ? names.stored_head + name.substr(names.head.size()) : written_expert_name(names, name);
}

/// "language_model." of "model.language_model.": the wrapper's path in older files, which contain the whole decoder.
inline std::string older_path(const ModuleNames& names) {
  constexpr std::string_view model = "model.";
  return names.wrapper_path.starts_with(model) ? names.wrapper_path.substr(model.size()) : names.wrapper_path;
}

/// All names that a parameter may have in files.
inline std::vector<std::string> names_in_files(const ModuleNames& names, const std::string& name) {
  const std::string written = written_name(names, name), path = names.wrapper_path;
  if (path.empty())
    return {name, written, written.starts_with(names.prefix) ? written.substr(names.prefix.size()) : written};
  std::vector<std::string> out;
  for (const std::string& own : {name, written}) {
    out.push_back(own);
    if (own.starts_with(path)) {
      const std::string rest = own.substr(path.size());
      out.insert(out.end(), {older_path(names) + names.prefix + rest, older_path(names) + rest});
    } else {
      out.push_back(older_path(names) + own);
    }
  }
  return out;
}

/// The name of a parameter in the checkpoint; its own if it is missing there.
inline std::string stored_name(const Checkpoint& checkpoint, const ModuleNames& names, const std::string& name) {
  for (const std::string& stored : names_in_files(names, name))
    if (checkpoint.contains(stored)) return stored;
  return name;
}

/// Whether a tensor in a multimodal model's files belongs to its decoder.
inline bool is_of_decoder(const ModuleNames& names, const std::string& stored) {
  return stored.starts_with(names.wrapper_path) || stored.starts_with(older_path(names)) ||
         stored.starts_with(names.head + ".");
}

}  // namespace kto::detail
