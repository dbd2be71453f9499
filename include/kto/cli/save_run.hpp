// SPDX-License-Identifier: Apache-2.0
// What a run leaves in its output folder: the trained model or adapter, its card, results and settings.
#pragma once

#include <string>
#include <string_view>

#include "kto/cli/arguments.hpp"
#include "kto/cli/policy.hpp"
#include "kto/train/model_card.hpp"
#include "kto/train/state.hpp"

namespace kto::cli {

/// Takes away what an overwritten run of the other kind left: a loader would put an adapter on the new weights, or read
/// the old model for the new adapter's.
inline void remove_adapter(const fs::path& folder) {
  remove_stale_weights(folder, {}, "adapter_model");
  fs::remove(folder / "adapter_config.json");
}
inline void remove_whole_model(const fs::path& folder, const fs::path& base) {
  if (std::error_code none; fs::equivalent(folder, base, none)) return;
  remove_stale_weights(folder, {});
  for (const char* name : {"config.json", "generation_config.json"}) fs::remove(folder / name);
}

/// Saves the model or the adapter that is trained, for transformers or PEFT to load.
inline void save_policy(const Policy& policy, const fs::path& folder) {
  if (policy.adapter) {
    save_adapter({policy.model, *policy.adapter}, folder, policy.tokenizer_files, policy.tokens);
    remove_whole_model(folder, policy.base);
  } else {
    save_pretrained(policy.model, folder, policy.base_files, policy.tokens);
    remove_adapter(folder);
  }
}

/// README.md of the trained model. Base and rows are named as the hub has them; a base that it has not, by its folder.
inline std::string model_card(const Arguments& args, const LossEntry& loss, const Policy& policy,
                              std::string_view version) {
  const auto on_hub = hub::repository_of(policy.base);
  const std::string stored = policy.base_files.object("config.json").value("_name_or_path", "");
  const bool is_named = on_hub || hub::is_full_id(stored);
  std::error_code none;
  const std::string& rows = args.script.dataset_name;
  const std::string on_own = args.script.push_to_hub ? args.script.hub_model_id.value_or("") : "";
  return to_markdown({.model_name = on_own.empty() ? output_name(args) : on_own.substr(on_own.find('/') + 1),
                      .base_model = on_hub     ? on_hub->id
                                    : is_named ? stored
                                               : policy.base.string(),
                      .base_is_folder = !is_named,
                      .dataset = hub::is_full_id(rows) && !fs::exists(rows, none) ? rows : "",
                      .library_name = policy.adapter && !args.script.merge_and_unload ? "peft" : "transformers",
                      .tags = {"trl", std::string(loss.name)},
                      .method = std::string(loss.paper.method),
                      .paper_title = std::string(loss.paper.title),
                      .paper_id = std::string(loss.paper.arxiv_id),
                      .paper_key = std::string(loss.paper.key),
                      .paper_authors = std::string(loss.paper.authors),
                      .version = std::string(version),
                      .libtorch_version = libtorch_version,
                      .shown_as = !policy.model.spec.encoder.empty() ? ""
                                  : on_own.empty()                   ? output_name(args)
                                                                     : on_own});
}

/// Writes what transformers' Trainer leaves in its output folder. `arguments` is the content of training_args.json.
inline void save_run(const Arguments& args, const Json& arguments, const LossEntry& loss, const Policy& policy,
                     const TrainerState& state, const Plan& plan, const Json& eval_metrics, std::string_view version) {
  const fs::path folder = args.train.output_dir;
  const auto write = [&](const char* name, const Json& content) { write_file(folder / name, content.dump(2) + "\n"); };
  Policy saved = policy;
  if (policy.adapter && args.script.merge_and_unload) {
    saved.model = merge_and_unload(policy.model);
    saved.adapter.reset();
  }
  save_policy(saved, folder);
  write_file(folder / "README.md", model_card(args, loss, policy, version));
  Json results = state.log_history.back();
  results.erase("step");
  write("train_results.json", results);
  if (!eval_metrics.empty()) {
    write("eval_results.json", eval_metrics);
    results.update(eval_metrics);
  }
  write("all_results.json", results);
  write("training_args.json", arguments);
  write("trainer_state.json", to_json(state, plan, args.train));
}

}  // namespace kto::cli
