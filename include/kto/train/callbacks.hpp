// SPDX-License-Identifier: Apache-2.0
// Hooks into a run, as transformers' TrainerCallback: any of them may be empty. They are called on the training thread,
// between steps; throwing ends the run with that exception.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "kto/train/state.hpp"

namespace kto {

/// What a hook may request. Read after each step.
struct Control {
  bool should_stop = false;  ///< end the run after this step
  bool should_save = false;  ///< save a checkpoint after this step
  bool interrupted = false;  ///< with should_stop: the run will be resumed, so it gets no closing log entry
};

/// Functions that a run calls; those left empty are not called.
struct Callback {
  /// Before the first update, with the run's length.
  std::function<void(const TrainerState&, const Plan&)> on_train_begin = {};
  /// Before each update.
  std::function<void(const TrainerState&, Control&)> on_step_begin = {};
  /// After each update.
  std::function<void(const TrainerState&, Control&)> on_step_end = {};
  /// A new entry of the log.
  std::function<void(const TrainerState&, const Json& entry, Control&)> on_log = {};
  /// The metrics of an evaluation.
  std::function<void(const TrainerState&, const Json& metrics, Control&)> on_evaluate = {};
  /// Batches done and total, during an evaluation.
  std::function<void(std::int64_t done, std::int64_t total)> on_evaluate_batch = {};
  /// A checkpoint is complete at `folder`.
  std::function<void(const TrainerState&, const fs::path& folder)> on_save = {};
  /// After the run's last update, evaluation and checkpoint.
  std::function<void(const TrainerState&)> on_train_end = {};
  /// A message for the user, reported once.
  std::function<void(const std::string&)> on_note = {};
};

/// Called in order.
using Callbacks = std::vector<Callback>;

namespace detail {

/// Calls `hook` of every callback that has it.
template <class... Parameters, class... Arguments>
void call(const Callbacks& callbacks, std::function<void(Parameters...)> Callback::* hook, Arguments&&... arguments) {
  for (const Callback& callback : callbacks)
    if (callback.*hook) (callback.*hook)(arguments...);
}

}  // namespace detail

}  // namespace kto
