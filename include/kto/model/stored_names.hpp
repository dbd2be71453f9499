// SPDX-License-Identifier: Apache-2.0
// The names of a decoder's parameters in files, where they differ from those in transformers' modules: a bare backbone
// omits a prefix, and transformers stores some heads and the decoders of multimodal models under older names.
#pragma once

#include <string>
#include <vector>

#include "kto/io/checkpoint.hpp"
#include "kto/model/spec.hpp"

namespace kto::detail {

/// "language_model." of "model.language_model.": the wrapper's path in older files, which contain the whole decoder.
inline std::string older_path(const ModuleNames& names) {
  constexpr std::string_view model = "model.";
  return names.wrapper_path.starts_with(model) ? names.wrapper_path.substr(model.size()) : names.wrapper_path;
}

/// A parameter's name as transformers writes it into new files.
inline std::string written_name(const ModuleNames& names, const std::string& name) {
  const bool of_head = !names.stored_head.empty() && name.starts_with(names.head + ".");
  return of_head ? names.stored_head + name.substr(names.head.size()) : name;
}

/// All names that a parameter may have in files.
inline std::vector<std::string> names_in_files(const ModuleNames& names, const std::string& name) {
  const std::string& path = names.wrapper_path;
  if (path.empty())
    return {name, name.starts_with(names.prefix) ? name.substr(names.prefix.size()) : written_name(names, name)};
  if (!name.starts_with(path)) return {name, older_path(names) + name};
  const std::string rest = name.substr(path.size());
  return {name, older_path(names) + names.prefix + rest, older_path(names) + rest};
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
