// SPDX-License-Identifier: Apache-2.0
// Folders in place of the names of models, adapters and data sets on the hub.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "kto/cli/script_config.hpp"
#include "kto/hub/locate.hpp"

namespace kto::cli {

/// The folder of a model, or of an adapter, at a revision.
inline std::string model_on_disk(const std::string& name, const std::string& revision, bool needs_tokenizer,
                                 const Note& note = {}) {
  const hub::Repository repository{.kind = hub::Kind::model, .id = name, .revision = revision};
  return hub::locate(repository, hub::model_files(needs_tokenizer), note).string();
}

/// The models and adapters that `script` names, as folders.
inline ScriptConfig with_folders(ScriptConfig script, const Note& note) {
  script.model_name_or_path =
      model_on_disk(script.model_name_or_path, script.model_revision, /*needs_tokenizer=*/true, note);
  if (auto& reference = script.ref_model_name_or_path) {
    const auto revision = script.ref_model_init_kwargs.find("revision");
    const bool has_revision = revision != script.ref_model_init_kwargs.end() && revision->is_string();
    reference = model_on_disk(*reference, has_revision ? revision->get<std::string>() : "main",
                              /*needs_tokenizer=*/false, note);
  }
  if (auto& adapter = script.adapter_name_or_path) {
    std::vector<std::string> names;
    for (const auto& name : {script.model_adapter_name, script.ref_adapter_name})
      if (name) names.push_back(*name);
    adapter = hub::locate({.kind = hub::Kind::model, .id = *adapter}, hub::adapter_files(names), note).string();
  }
  return script;
}

}  // namespace kto::cli
