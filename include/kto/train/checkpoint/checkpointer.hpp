// SPDX-License-Identifier: Apache-2.0
// Saves and resumes a run: model, optimizer, learning rate, reference, random generators, position in the data and the
// unfinished part of the log. A resumed run equals the uninterrupted one to the last bit.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kto/train/checkpoint/folder.hpp"
#include "kto/train/checkpoint/output_folder.hpp"
#include "kto/train/checkpoint/run_changes.hpp"
#include "kto/train/options/options.hpp"
#include "kto/train/run.hpp"

namespace kto {

/// What a program adds to its checkpoints. All fields are optional.
struct Checkpointing {
  /// Saves the model into an existing folder, as save_pretrained or save_adapter do. Without it, the model's parameters
  /// are written to model.safetensors. The files it writes must have every trained parameter, named as parts_in_files says.
  std::function<void(const fs::path& folder)> save_model = {};
  Json arguments = {};          ///< of the program, for training_args.json; if null, the TrainConfig
  Json files = Json::object();  ///< {path: file_hash(path)} of the rows to train on: a change is reported by name
  std::string model_card = "";  ///< README.md
};

/// Copies the trained parameters of a checkpoint (of a model or an adapter) into `model`. Throws Error naming what is
/// missing or misshapen, and then leaves the model unchanged.
template <HasParameters Model>
void restore_parameters(const Model& model, const CheckpointFolder& from) {
  const at::NoGradGuard no_grad;
  const fs::path& folder = from.path;
  const bool adapter = from.has("adapter_model.safetensors") || from.has("adapter_model.safetensors.index.json");
  const Checkpoint stored(folder, adapter ? "adapter_model" : "model");
  struct Found {
    Tensor parameter, part, saved;
  };
  std::vector<Found> all;
  for (auto& [name, tensor] : model.named_parameters()) {
    if (!tensor.requires_grad()) continue;
    auto parts = parts_in_files(model, name, tensor);
    const std::size_t dot = std::min(name.rfind('.'), name.size());
    for (const std::string& other : {name, "base_model.model." + name,
                                     "base_model.model." + name.substr(0, dot) + ".base_layer" + name.substr(dot)})
      if (!stored.contains(parts[0].first) && stored.contains(other)) parts = {{other, tensor}};
    for (auto& [found, part] : parts) {
      check(stored.contains(found), folder.string(), ": has no weights for ", name, ", which is trained");
      const Tensor saved = stored.tensor(found);
      check(saved.sizes() == part.sizes() && saved.scalar_type() == part.scalar_type(), folder.string(), ": ", found,
            " is ", saved.scalar_type(), ' ', shape_text(saved.sizes()), ", expected ", part.scalar_type(), ' ',
            shape_text(part.sizes()));
      all.push_back({tensor, part, saved});
    }
  }
  for (auto& [parameter, part, saved] : all) {
    present(parameter);
    part.copy_(std::exchange(saved, {}));
    keep_own_part(parameter);
  }
}

/// Clears the best checkpoint of `state` if its folder is missing, for example because only the newest checkpoint was
/// copied. Returns a message about it; empty if nothing was cleared.
inline std::string forget_lost_best(TrainerState& state) {
  if (!state.best_model_checkpoint || fs::is_directory(*state.best_model_checkpoint)) return "";
  const std::string lost = *std::exchange(state.best_model_checkpoint, std::nullopt);
  return concat("the best checkpoint, ", lost, ", no longer exists; the run continues without it");
}

/// The folder to resume from, if any. Throws Error if it does not exist, or output_dir has none.
inline std::optional<fs::path> checkpoint_to_resume(const TrainConfig& config) {
  if (!config.resume_from_checkpoint) return std::nullopt;
  if (*config.resume_from_checkpoint != "True" && *config.resume_from_checkpoint != "true") {
    std::error_code none;
    check(fs::is_directory(*config.resume_from_checkpoint, none), *config.resume_from_checkpoint,
          ": is not a folder; expected a checkpoint-N to resume from");
    return fs::path(*config.resume_from_checkpoint);
  }
  const auto checkpoints = list_checkpoints(config.output_dir);
  const bool has_others = checkpoints.empty() && !list_checkpoints(config.output_dir, /*own=*/false).empty();
  check(!checkpoints.empty(), config.output_dir, ": has no checkpoint-N ",
        has_others ? concat("of this program (with a ", checkpoint_manifest, ") ") : "",
        "to resume from; omit --resume_from_checkpoint to start from the beginning");
  return checkpoints.rbegin()->second;
}

/// The micro-batches of a micro-step: one on each rank, or as many as there were ranks when the run was begun.
inline std::size_t step_size_of(const TrainConfig& config, const World& world) {
  std::int64_t size = world.size;
  on_first(world, [&] {
    const auto from = checkpoint_to_resume(config);
    if (!from || !fs::exists(*from / checkpoint_manifest)) return;
    const Json manifest = read_json(*from / checkpoint_manifest);
    const Json known = detail::part(detail::part(detail::part(manifest, "identity"), "ranks"), "step_size");
    size = std::max<std::int64_t>(1, json_as<std::int64_t>(known).value_or(1));
  });
  return static_cast<std::size_t>(world.is_first() ? world.max(size) : world.max(std::int64_t{0}));
}

/// Saves and restores the runs of one Trainer::train call. All ranks call it together, and rank 0 writes.
class Checkpointer {
 public:
  /// `note` receives messages for the user.
  Checkpointer(const TrainConfig& config, const Checkpointing& how, Plan plan,
               std::function<void(const std::string&)> note, Share share = {})
      : config_(config), how_(how), plan_(plan), note_(std::move(note)), share_(std::move(share)) {
    if (!is_on()) return;
    on_first(world_, [&] { take_folder(); });
    if (const std::string from = world_.broadcast(from_ ? from_->string() : ""); !from.empty()) from_ = from;
  }

  /// Whether the run can save checkpoints or resumes from one.
  bool is_on() const {
    return config_.save_strategy != SaveStrategy::no || how_.save_model || config_.resume_from_checkpoint;
  }

  /// Records the identity of `trainer`'s run, before its model is trained or restored. Throws Error on a rank whose run
  /// is another one than rank 0's.
  template <class Trainer>
  void identify(const Trainer& trainer, std::span<const Example> rows, const EvaluationSets& eval_sets) {
    Json options = how_.arguments.is_object() ? how_.arguments : Json::object();
    const Json own = to_json(config_);
    for (const auto& [name, value] : own.items())
      if (!options.contains(name)) options[name] = value;
    together(world_, [&] {
      identity_ = run_identity(trainer.model, trainer.collator, trainer.loss, trainer.reference, trainer.optimizer,
                               rows, eval_sets, options, how_.files);
    });
    identity_["learning_rate"] = static_cast<bool>(trainer.learning_rate);
    const std::string first = world_.broadcast(identity_.dump());
    together(world_, [&] { check_same_run(Json::parse(first), identity_, world_.rank); });
    if (share_.step_size > 1 || !world_.alone())
      identity_["ranks"] = {{"number", world_.size}, {"step_size", share_.step_size}};
  }

  /// The checkpoint in `folder`. Throws Error if it is damaged or belongs to another run.
  CheckpointFolder own_checkpoint(const fs::path& folder) const {
    CheckpointFolder saved = verified_checkpoint(folder);
    (void)changes_since(saved);
    return saved;
  }

  /// Restores everything from the checkpoint, if the run resumes from one. Returns notes about settings that have
  /// changed since.
  template <class Model, class Loss, class Reference>
  std::vector<std::string> resume(RunParts<Model, Loss, Reference>& parts) {
    if (!from_) return {};
    std::vector<std::string> notes;
    together(world_, [&] { notes = read(parts); });
    return notes;
  }

  /// Saves checkpoint-N for the current step N, and removes old ones beyond save_total_limit. Returns its folder.
  template <class Model, class Loss, class Reference>
  fs::path save(RunParts<Model, Loss, Reference>& parts) {
    check(is_on(),
          "a checkpoint was requested in a run that cannot save any: set save_strategy, or give "
          "Trainer::checkpointing a save_model");
    const Uninterrupted to_its_end;
    TrainerState& state = parts.run.state;
    find_best(state, state.global_step);
    CheckpointContent content = content_of(state);
    content.save_model = how_.save_model ? how_.save_model : [&](const fs::path& folder) {
      save_checkpoint(folder, parts.model.named_parameters());
    };
    if (!config_.save_only_model)
      parts.visit_state([&](const char* part, auto& holder) {
        StateWriter archive;
        holder.visit_state(archive);
        content.states[part] = archive.take();
      });
    const fs::path folder = fs::path(config_.output_dir) / concat(detail::checkpoint_prefix, state.global_step);
    parts.run.updates->write_state(world_, [&] {
      write_checkpoint_folder(config_.output_dir, state.global_step, std::move(content));
      remove_old(config_.output_dir, state);
    });
    saved_step_ = state.global_step;
    return folder;
  }

  /// Loads the weights of the best checkpoint into the model, if config says so. If they cannot be read, returns a
  /// message and keeps the last weights, so that the training is not lost. All ranks call it, and all do the same.
  template <HasParameters Model>
  std::string restore_best(const Model& model, TrainerState& state) const {
    if (!config_.load_best_model_at_end || !world_.all(state.best_model_checkpoint.has_value())) return "";
    try {
      std::optional<CheckpointFolder> best;
      together(world_, [&] { best = own_checkpoint(*state.best_model_checkpoint); });
      together(world_, [&] { restore_parameters(model, *best); });
      return "";
    } catch (const Error& error) {
      state.best_model_checkpoint.reset();
      return concat(error_text(error), "; the run ends with its last weights");
    }
  }

  /// At the end of a run: with a save_total_limit of 1, keeps only the best checkpoint, if there is one.
  void finish(const TrainerState& state) {
    on_first(world_, [&] { keep_best_alone(state); });
  }

  /// Whether the current state is in a checkpoint.
  bool has_saved(std::int64_t step) const { return saved_step_ == step; }

 private:
  void keep_best_alone(const TrainerState& state) {
    if (config_.save_total_limit != 1 || !state.best_model_checkpoint) return;
    const auto is_best = [&](const auto& found) { return fs::equivalent(found.second, *state.best_model_checkpoint); };
    const auto checkpoints = list_checkpoints(config_.output_dir);
    if (std::ranges::none_of(checkpoints, is_best)) return;  // it is elsewhere
    for (const auto& found : checkpoints)
      if (!is_best(found)) remove(found.second);
  }

  /// Takes output_dir for this run, and finds the checkpoint to resume from.
  void take_folder() {
    folder_.emplace(config_.output_dir, /*may_hold_files=*/true);
    from_ = checkpoint_to_resume(config_);
    check(from_ || config_.overwrite_output_dir || list_checkpoints(config_.output_dir).empty(), config_.output_dir,
          ": has checkpoints of an earlier run; resume it (resume_from_checkpoint), choose another output_dir, or set "
          "overwrite_output_dir");
    const auto first = from_ ? detail::checkpoint_step(from_->filename().string()).value_or(0) + 1 : 1;
    for (const auto& [step, path] : list_checkpoints(config_.output_dir, /*own=*/false))
      if (step >= first && will_save(step)) check_checkpoint_place(path);
  }

  /// resume() of this rank.
  template <class Model, class Loss, class Reference>
  std::vector<std::string> read(RunParts<Model, Loss, Reference>& parts) {
    const CheckpointFolder saved = open_checkpoint(*from_);
    RunChanges changes = changes_since(saved);
    parts.run.state = saved_state_of(saved);
    restore_parameters(parts.model, saved);
    const at::Device device = device_of(parts.model);
    parts.visit_state([&](const std::string& part, auto& holder) {
      if (part == "scheduler" && changes.rate_state) return;
      SavedState state = saved.state(part);
      if (part == "sampler" && !state.values.contains("stream")) state.values["stream"] = nullptr;  // earlier versions
      StateReader archive(std::move(state), device, (from_->string() + ": ") + part);
      holder.visit_state(archive);
    });
    TrainerState& state = parts.run.state;
    changes.best = changes.best && state.best_metric;
    if (changes.best) state.forget_best();
    if (!state.evaluation_due) saved_step_ = state.global_step;
    std::vector<std::string> notes = change_notes(changes, identity_, state.global_step);
    notes.push_back(forget_lost_best(state));
    return notes;
  }

  /// The differences of this run to the checkpoint's. Throws Error for those that are not allowed.
  RunChanges changes_since(const CheckpointFolder& saved) const {
    RunChanges changes = run_changes(saved.manifest.value("identity", Json()), identity_);
    std::string list;
    for (const std::string& each : changes.refused) list += "\n  " + each;
    check(list.empty(), saved.path.string(), ": is a checkpoint of a different run:", list,
          "\nUse what it was made with, or start a new run from its weights with --model_name_or_path");
    return changes;
  }

  /// Reads trainer_state.json and the rest of the state in the manifest. Throws Error if this run ends before that
  /// step.
  TrainerState saved_state_of(const CheckpointFolder& saved) const {
    const fs::path file = *from_ / "trainer_state.json";
    TrainerState state = trainer_state_from_json(read_json(file), file.string());
    check(state.global_step <= plan_.num_steps, from_->string(), ": has step ", state.global_step,
          ", but this run ends at step ", plan_.num_steps, "; raise max_steps or num_train_epochs");
    state.num_tokens =
        json_value<std::int64_t>(saved.manifest, "num_tokens", state.num_input_tokens_seen, from_->string());
    state.evaluation_due = saved.manifest.value("evaluation_due", Json()) == true;
    find_best(state);
    return state;
  }

  /// Updates the path of the best checkpoint, since output_dir may have moved, if it exists there or is `saving`.
  void find_best(TrainerState& state, std::int64_t saving = -1) const {
    if (!state.best_global_step) return;
    const fs::path best = fs::path(config_.output_dir) / concat(detail::checkpoint_prefix, *state.best_global_step);
    if (*state.best_global_step == saving || fs::exists(best)) state.best_model_checkpoint = best.string();
  }

  /// The text files and manifest of a checkpoint.
  CheckpointContent content_of(const TrainerState& state) const {
    CheckpointContent content;
    content.texts = {
        {"trainer_state.json", to_json(state, plan_, config_).dump(2) + "\n"},
        {"training_args.json", (how_.arguments.is_null() ? to_json(config_) : how_.arguments).dump(2) + "\n"}};
    if (!how_.model_card.empty()) content.texts["README.md"] = how_.model_card;
    content.manifest = {{"global_step", state.global_step}, {"num_tokens", state.num_tokens}, {"identity", identity_}};
    if (state.evaluation_due) content.manifest["evaluation_due"] = true;
    return content;
  }

  /// Whether a checkpoint of this step is planned, as far as known before training.
  bool will_save(std::int64_t step) const {
    if (config_.save_strategy == SaveStrategy::no || step > plan_.num_steps) return false;
    const std::int64_t every = config_.save_strategy == SaveStrategy::steps   ? plan_.save_steps
                               : config_.save_strategy == SaveStrategy::epoch ? plan_.steps_per_epoch
                                                                              : 1;
    return step == plan_.num_steps || step % every == 0;
  }

  void remove_old(const fs::path& output_dir, const TrainerState& state) {
    std::set<std::int64_t> kept{state.global_step};
    if (state.best_global_step && state.best_model_checkpoint)
      if (const auto step = detail::checkpoint_step(fs::path(*state.best_model_checkpoint).filename().string()))
        kept.insert(*step);
    if (!from_ && !replaced_earlier_run_) {  // overwrite_output_dir: do not resume from another run's checkpoints
      for (const auto& [step, folder] : list_checkpoints(output_dir))
        if (step != state.global_step) remove(folder);
      replaced_earlier_run_ = true;
    }
    if (config_.save_total_limit)
      for (const fs::path& folder : checkpoints_over(output_dir, *config_.save_total_limit, kept)) remove(folder);
  }

  /// A checkpoint that cannot be removed does not end a run: it is reported once.
  void remove(const fs::path& folder) {
    try {
      remove_checkpoint(folder);
    } catch (const fs::filesystem_error& error) {
      if (not_removed_.insert(folder).second)
        note_(concat(folder.string(), ": cannot remove this old checkpoint: ", error.code().message()));
    }
  }

  const TrainConfig& config_;
  const Checkpointing& how_;
  Plan plan_;
  std::optional<OutputFolder> folder_;
  std::function<void(const std::string&)> note_;
  Share share_;
  const World& world_ = share_.world;
  std::set<fs::path> not_removed_;
  std::optional<fs::path> from_;
  Json identity_;
  std::int64_t saved_step_ = -1;
  bool replaced_earlier_run_ = false;
};

}  // namespace kto
