// SPDX-License-Identifier: Apache-2.0
// Compares a resumed run with the run of its checkpoint. Everything that the weights trained so far depend on must be
// the same; settings that only affect the rest of the run may differ, with a note.
#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/options/option.hpp"
#include "kto/train/checkpoint/identity.hpp"

namespace kto {

/// Options that may change without a note: paths, display, and options that change no result. Rows and models are
/// compared by content.
inline constexpr std::array free_options{"output_dir",
                                         "overwrite_output_dir",
                                         "resume_from_checkpoint",
                                         "ignore_data_skip",
                                         "nonfinite_loss",
                                         "disable_tqdm",
                                         "model_name_or_path",
                                         "model_revision",
                                         "model_init_kwargs",
                                         "is_encoder_decoder",
                                         "ref_model_init_kwargs",
                                         "dataset_name",
                                         "dataset_config",
                                         "datasets",
                                         "dataset_cache",
                                         "adapter_name_or_path",
                                         "ref_model_name_or_path",
                                         "ref_logps_cache",
                                         "precompute_ref_batch_size",
                                         "merge_and_unload",
                                         "auto_find_batch_size",
                                         "dataset_num_proc",
                                         "dataloader_num_workers",
                                         "dataloader_prefetch_factor",
                                         "torch_empty_cache_steps",
                                         "nproc",
                                         "ddp_backend",
                                         "ddp_timeout",
                                         "deepspeed",
                                         "fsdp",
                                         "fsdp_config",
                                         "push_to_hub",
                                         "hub_model_id",
                                         "hub_strategy",
                                         "hub_token",
                                         "hub_private_repo",
                                         "hub_revision",
                                         "hub_always_push",
                                         "log_level"};

/// Options that the learning rate of later updates depends on.
inline constexpr std::array schedule_options{"num_train_epochs",  "max_steps",           "learning_rate",
                                             "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps",
                                             "warmup_ratio"};

/// Options that decide which evaluation is the best.
inline constexpr std::array best_options{"metric_for_best_model", "greater_is_better"};

/// Other options that only affect the rest of the run: log, evaluations, saving and reports, device and memory.
inline constexpr std::array other_options{"logging_strategy",
                                          "logging_steps",
                                          "logging_first_step",
                                          "logging_nan_inf_filter",
                                          "include_num_input_tokens_seen",
                                          "skip_memory_metrics",
                                          "report_to",
                                          "logging_dir",
                                          "run_name",
                                          "project",
                                          "eval_strategy",
                                          "eval_steps",
                                          "eval_delay",
                                          "eval_on_start",
                                          "eval_datasets",
                                          "dataset_test_split",
                                          "prediction_loss_only",
                                          "per_device_eval_batch_size",
                                          "do_eval",
                                          "bf16_full_eval",
                                          "fp16_full_eval",
                                          "generate_during_eval",
                                          "generation_num_prompts",
                                          "generation_max_new_tokens",
                                          "generation_temperature",
                                          "save_strategy",
                                          "save_steps",
                                          "save_total_limit",
                                          "save_only_model",
                                          "load_best_model_at_end",
                                          "early_stopping_patience",
                                          "early_stopping_threshold",
                                          "full_determinism",
                                          "tf32",
                                          "gradient_checkpointing",
                                          "reuse_ref_log_probs",
                                          "zero_stage",
                                          "device",
                                          "matmul",
                                          "logits_tile_mib"};

/// The changes, one phrase each.
struct RunChanges {
  std::vector<std::string> refused;  ///< the weights trained so far depend on these
  std::vector<std::string> taken;    ///< these apply from here on
  bool schedule = false;             ///< an option that the learning rate depends on is among `taken`
  bool rate_state = false;           ///< a learning rate that follows the evaluations restarts at its peak
  bool best = false;                 ///< earlier evaluations no longer count for the best model
};

namespace detail {

/// object[key], or null.
inline Json part(const Json& object, const std::string& key) {
  return object.is_object() && object.contains(key) ? object[key] : Json();
}

/// The number of ranks of a run.
inline std::int64_t num_ranks(const Json& identity) {
  return json_as<std::int64_t>(part(part(identity, "ranks"), "number")).value_or(1);
}

/// Compares how many micro-batches an update has, which the ranks share. Returns whether they do it in another number.
inline bool compare_ranks(const Json& saved, const Json& now, RunChanges& out) {
  const std::int64_t old_ranks = num_ranks(saved), ranks = num_ranks(now);
  if (old_ranks == ranks) return false;
  const auto steps = [](const Json& identity) {
    return json_as<std::int64_t>(part(part(identity, "options"), "gradient_accumulation_steps")).value_or(1);
  };
  const std::int64_t old_steps = steps(saved), all = old_ranks * old_steps;
  if (steps(now) * ranks == all)
    out.taken.push_back(concat("the number of processes is ", ranks, " and was ", old_ranks));
  else
    out.refused.push_back(concat("an update has the micro-batches of ", ranks,
                                 " processes with gradient_accumulation_steps ", steps(now), ", and had those of ",
                                 old_ranks, " with ", old_steps,
                                 all % ranks == 0 ? concat(": set it to ", all / ranks) : ""));
  return true;
}

inline void compare_options(const Json& saved, const Json& now, bool other_ranks, RunChanges& out) {
  if (!saved.is_object()) return;
  for (const auto& [name, value] : now.items()) {
    const auto is_in = [&](const auto& list) { return std::ranges::find(list, std::string_view(name)) != list.end(); };
    if (other_ranks && name == "gradient_accumulation_steps") continue;
    if (is_in(free_options) || !saved.contains(name) || saved[name] == value) continue;
    const bool schedule = is_in(schedule_options), best = is_in(best_options);
    (schedule || best || is_in(other_options) ? out.taken : out.refused)
        .push_back(concat(name, " is ", quoted(value), " and was ", quoted(saved[name])));
    out.schedule = out.schedule || schedule;
    out.rate_state = out.rate_state || name == "lr_scheduler_type" || name == "learning_rate";
    out.best = out.best || best;
  }
}

/// Compares the training rows. Rows of a stream are compared later, as they are read; checkpoints of earlier versions
/// only know the files of a stream.
inline void compare_rows(const Json& saved, const Json& now, RunChanges& out) {
  const Json old_rows = part(part(saved, "rows"), "train"), rows = part(part(now, "rows"), "train");
  const bool streamed = rows == streamed_rows, files_alone = streamed && old_rows == rows_hash({});
  if (rows == old_rows && !streamed) return;
  const Json old_files = part(saved, "files"), files = part(now, "files");
  bool is_file = false;
  for (const auto& [path, hash] : files.items()) {
    const std::string name = path.substr(path.rfind('/') + 1);  // npos + 1 is 0
    for (const auto& [old_path, old_hash] : old_files.items())
      if ((old_path == path || old_path.ends_with("/" + name)) && old_hash != hash) {
        is_file = true;
        if (streamed && !files_alone)
          out.taken.push_back("the streamed file " + path + " has changed since");
        else
          out.refused.push_back("the rows file " + path + " has changed since");
        break;
      }
  }
  if (rows != old_rows && !is_file && !files_alone)
    out.refused.emplace_back("the train rows are different (in token ids or labels)");
}

/// Evaluation sets by name; a set without a name has "".
inline void compare_evaluation(const Json& saved, const Json& now, RunChanges& out) {
  const auto by_name = [](const Json& sets) {
    Json named = sets.is_object() ? sets : Json::object();
    if (sets.is_string() && sets != rows_hash({})) named[""] = sets;
    return named;
  };
  const Json old_sets = by_name(part(part(saved, "rows"), "evaluation")),
             sets = by_name(part(part(now, "rows"), "evaluation"));
  const auto called = [](const std::string& name) {
    return name.empty() ? "the rows to evaluate on" : "the evaluation set " + name;
  };
  for (const auto& [name, hash] : sets.items()) {
    if (!old_sets.contains(name))
      out.taken.push_back(called(name) + (name.empty() ? " are" : " is") +
                          " new: the checkpoint's run did not have it");
    else if (old_sets[name] != hash)
      out.taken.push_back(called(name) + " differ" + (name.empty() ? "" : "s") + " (token ids or labels)");
    out.best = out.best || (old_sets.contains(name) && old_sets[name] != hash);
  }
  for (const auto& [name, hash] : old_sets.items())
    if (!sets.contains(name))
      out.taken.push_back(called(name) + (name.empty() ? " are" : " is") + " gone: the checkpoint's run had them");
}

inline void compare_policies(const Json& saved, const Json& now, RunChanges& out) {
  const auto differ = [&](const char* key) { return part(saved, key) != part(now, key); };
  if (differ("parameters"))
    out.refused.emplace_back("the model has different parameters (names, shapes or types)");
  else if (differ("weights"))
    out.refused.emplace_back("the model that the run started from has different weights");
  else if (differ("reference"))
    out.refused.emplace_back("the reference is different");
  else if (saved.is_object() && saved.contains("description"))  // earlier versions have none
    for (const char* which : {"model", "reference"})
      if (part(saved["description"], which) != part(now["description"], which))
        out.refused.push_back(
            concat("the ", which,
                   " computes something else with the same weights (config.json or the adapter's config changed)"));
  if (!out.refused.empty()) return;  // an option or the weights already explain it
  const Json policies = part(now, "policies");
  for (const auto& [slot, text] : policies.items())
    if (const Json old = part(part(saved, "policies"), slot); !old.is_null() && old != text)
      out.refused.push_back(concat("the ", slot, " is ", value_text(text), " and was ", value_text(old)));
  const Json function = part(now, "learning_rate"), old_function = part(saved, "learning_rate");
  if (!old_function.is_null() && function != old_function) {
    out.schedule = out.rate_state = true;
    out.taken.emplace_back(function == true ? "the learning rate is a function in the program and was a schedule"
                                            : "the learning rate is a schedule and was a function in the program");
  }
}

}  // namespace detail

/// Compares the identity in a checkpoint with that of the resumed run.
inline RunChanges run_changes(const Json& saved, const Json& now) {
  RunChanges out;
  const bool other_ranks = detail::compare_ranks(saved, now, out);
  detail::compare_options(detail::part(saved, "options"), detail::part(now, "options"), other_ranks, out);
  detail::compare_rows(saved, now, out);
  detail::compare_evaluation(saved, now, out);
  detail::compare_policies(saved, now, out);
  return out;
}

/// Throws Error naming what differs if the run of rank `rank` is another one than rank 0's.
inline void check_same_run(const Json& first, const Json& own, int rank) {
  const Json options = detail::part(own, "options");
  for (const auto& [name, value] : options.items())
    if (const Json theirs = detail::part(first["options"], name);
        theirs != value && name != "device" &&
        std::ranges::find(free_options, std::string_view(name)) == free_options.end())
      fail("rank ", rank, ": ", name, " is ", detail::quoted(value), ", and rank 0 has ", detail::quoted(theirs),
           "; start all processes with the same options");
  for (const auto& [part, value] : own.items())
    check(part == "options" || detail::part(first, part) == value, "rank ", rank, " has other ",
          part == "rows" || part == "files" ? "rows" : concat("values of \"", part, '"'),
          " than rank 0; start all processes on the same rows, model and reference");
}

/// Notes for the user about accepted changes, when a run resumes after `step`.
inline std::vector<std::string> change_notes(const RunChanges& changes, const Json& identity, std::int64_t step) {
  std::vector<std::string> out;
  if (!changes.taken.empty()) {
    std::string list;
    for (const std::string& each : changes.taken) list += (list.empty() ? "" : "; ") + each;
    out.push_back(concat("the run resumes at step ", step, " with different settings: ", list));
  }
  if (changes.schedule)
    out.push_back(concat("from step ", step + 1,
                         " on, the learning rate follows the new settings; transformers would "
                         "keep the checkpoint's learning_rate, and the old schedule for one more step"));
  if (changes.best)
    out.emplace_back(
        "earlier evaluations no longer count for the best model and early stopping; transformers would still "
        "compare with them");
  for (const Json& slot : detail::part(identity, "cannot_tell"))
    out.push_back(concat("cannot tell whether the ", detail::value_text(slot),
                         " is the one the checkpoint was made with: it has a function, a plain "
                         "pointer, private or too many members; write `std::string describe(const T&)` for its type T, "
                         "to make it comparable"));
  if (detail::part(identity, "learning_rate") == true)
    out.emplace_back("cannot tell whether the function learning_rate is the one the checkpoint was made with");
  return out;
}

}  // namespace kto
