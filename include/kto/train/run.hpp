// SPDX-License-Identifier: Apache-2.0
// One run of Trainer::train: its plan, its changing state, and the one list of everything in a checkpoint.
#pragma once

#include <memory>
#include <mutex>

#include "kto/loss/concept.hpp"
#include "kto/optim/learning_rate.hpp"
#include "kto/optim/updates.hpp"
#include "kto/reference/concept.hpp"
#include "kto/train/callbacks.hpp"
#include "kto/train/feed/feed.hpp"
#include "kto/train/loss_scale.hpp"
#include "kto/train/run_log.hpp"

namespace kto {

struct Run {
  Plan plan;
  LearningRate schedule;
  LossScale scale;
  RunLog log;
  TrainerState state = {};
  Control control = {};
  Position position = {};
  std::unique_ptr<Updates> updates = {};

  bool is_complete() const { return state.global_step >= plan.num_steps; }
  bool should_go_on() const { return !is_complete() && !control.should_stop; }

  /// Advances past the window of `num_batches` micro-batches at `position`, in an epoch of `num_in_epoch`.
  void advance(std::size_t num_batches, std::int64_t num_in_epoch) {
    position.batch += static_cast<std::int64_t>(num_batches);
    state.epoch =
        static_cast<double>(position.epoch) + static_cast<double>(position.batch) / static_cast<double>(num_in_epoch);
  }

  /// Counts a trained micro-batch of `flos` operations.
  void count(const Sequences& rows, double flos, InputTokens which) {
    state.num_tokens += rows.num_tokens;
    state.total_flos += flos;
    if (which == InputTokens::no) return;
    log.num_input_tokens += which == InputTokens::all ? rows.ids_N.size(0) : rows.num_tokens;
    if (which == InputTokens::all)
      for (const Sequences& prompts : rows.encoder) log.num_input_tokens += prompts.ids_N.size(0);
    state.num_input_tokens_seen = log.num_input_tokens;
  }
};

namespace detail {

/// The random generators that a run uses: the CPU's, and that of the model's device.
struct Generators {
  at::Device device;

  template <class Archive>
  void visit_state(Archive& archive) {
    visit(archive, "cpu", at::kCPU);
    if (device.is_cpu()) return;
    if constexpr (requires { archive.contains("device"); })
      if (!archive.contains("device")) return;  // the checkpoint was written by a run on the CPU
    visit(archive, "device", device);
  }

 private:
  template <class Archive>
  void visit(Archive& archive, const char* name, at::Device of) {
    at::Generator generator = at::globalContext().defaultGenerator(of);
    const std::lock_guard guard(generator.mutex());
    Tensor state = generator.get_state();
    archive(name, state);
    generator.set_state(state);
  }
};

/// Binds a reference to the policy that its visit_state needs.
template <class Reference, class Model>
struct BoundReference {
  Reference& reference;
  const Model& policy;
  void visit_state(StateWriter& archive) { reference.visit_state(archive, policy); }
  void visit_state(StateReader& archive) { reference.visit_state(archive, policy); }
};

}  // namespace detail

/// A run and the policies it changes.
template <class Model, class Loss, class Reference>
struct RunParts {
  Model& model;
  Loss& loss;
  Reference& reference;
  Run& run;

  /// Calls visit(part, object with visit_state) for everything in a checkpoint besides the model's parameters and the
  /// trainer's state. Throws Error for a policy that has state but does not list it.
  template <class Visit>
  void visit_state(const Visit& visit) {
    if (run.updates->has_state()) visit("optimizer", *run.updates);
    if constexpr (HasState<Loss>)
      visit("loss", loss);
    else
      check(!Observes<Loss, Tensor>,
            "this loss observes and cannot be saved: write `template <class Archive> void "
            "visit_state(Archive&)` in it; see kto/io/state.hpp");
    if constexpr (ReferenceHasState<Reference, Model>) {
      detail::BoundReference<Reference, Model> bound{reference, model};
      visit("reference", bound);
    } else {
      check(!FollowsPolicy<Reference, Model>,
            "this reference moves and cannot be saved: write `template <class Archive> void visit_state(Archive&, "
            "const Model& policy)` in it; see kto/reference/concept.hpp");
    }
    detail::Generators generators{device_of(model)};
    visit("rng_state", generators);
    visit("scheduler", run.schedule);
    visit("log", run.log);
    visit("sampler", run.position);
    if (run.scale.is_on()) visit("scaler", run.scale);
  }
};

}  // namespace kto
