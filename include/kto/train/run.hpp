// SPDX-License-Identifier: Apache-2.0
// One run of Trainer::train: its plan, its changing state, and the one list of everything in a checkpoint.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>
#include <string>

#include "kto/loss/concept.hpp"
#include "kto/optim/learning_rate.hpp"
#include "kto/optim/sharded_updates.hpp"
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

  /// Advances past the window of `num_batches` micro-batches at `position`, in an epoch of `num_in_epoch`. The log counts
  /// an epoch's micro-steps.
  void advance(std::size_t num_batches, std::int64_t num_in_epoch, const Share& share) {
    const auto steps = [&](std::int64_t batches) {
      return static_cast<double>(share.num_steps(static_cast<std::size_t>(batches)));
    };
    position.batch += static_cast<std::int64_t>(num_batches);
    state.epoch = static_cast<double>(position.epoch) + steps(position.batch) / steps(num_in_epoch);
  }

  /// Counts a trained micro-batch of `flos` operations; see sum_counts.
  void count(const Sequences& rows, double flos, InputTokens which) {
    state.num_tokens += rows.num_tokens;
    state.total_flos += flos;
    if (which == InputTokens::no) return;
    log.num_input_tokens += which == InputTokens::all ? rows.ids_N.size(0) : rows.num_tokens;
    if (which == InputTokens::all)
      for (const Sequences& prompts : rows.encoder) log.num_input_tokens += prompts.ids_N.size(0);
    state.num_input_tokens_seen = log.num_input_tokens;
  }

  struct Counts {
    std::int64_t num_tokens, num_input_tokens;
    double flos;
  };
  Counts counts() const { return {state.num_tokens, log.num_input_tokens, state.total_flos}; }
  /// What count() added on this rank since `before` becomes the sum over ranks.
  void sum_counts(const World& world, const Counts& before) {
    if (world.alone()) return;
    const Counts now = counts();
    const auto sums = world.sum(std::vector<double>{static_cast<double>(now.num_tokens - before.num_tokens),
                                                    static_cast<double>(now.num_input_tokens - before.num_input_tokens),
                                                    now.flos - before.flos});
    state.num_tokens = before.num_tokens + std::llround(sums[0]);
    state.total_flos = before.flos + sums[2];
    log.num_input_tokens = before.num_input_tokens + std::llround(sums[1]);
    if (log.num_input_tokens > 0) state.num_input_tokens_seen = log.num_input_tokens;
  }
};

namespace detail {

/// The random generators that a run uses: the CPU's, and that of the model's device, of every rank. All ranks visit
/// them together.
struct Generators {
  at::Device device;
  const World& world;

  template <class Archive>
  void visit_state(Archive& archive) {
    visit(archive, "cpu", at::kCPU);
    if (!device.is_cpu()) visit(archive, "device", device);
  }

 private:
  static std::string name_of(const char* name, int rank) { return rank == 0 ? name : concat("rank", rank, '.', name); }

  void visit(StateWriter& archive, const char* name, at::Device of) {
    const Tensor state = [&] {
      at::Generator generator = at::globalContext().defaultGenerator(of);
      const std::lock_guard guard(generator.mutex());
      return generator.get_state();
    }();
    std::vector<Tensor> states = world.gather(state);
    for (int rank = 0; rank < world.size; ++rank) archive(name_of(name, rank), states[static_cast<std::size_t>(rank)]);
  }
  /// A state that the checkpoint does not have stays: the run that wrote it had fewer ranks, or ran on the CPU.
  void visit(StateReader& archive, const char* name, at::Device of) {
    const std::string own = name_of(name, world.rank);
    if ((world.rank > 0 || !of.is_cpu()) && !archive.contains(own)) return;
    at::Generator generator = at::globalContext().defaultGenerator(of);
    const std::lock_guard guard(generator.mutex());
    Tensor state = generator.get_state();
    archive(own, state);
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
  const World& world;

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
    detail::Generators generators{device_of(model), world};
    visit("rng_state", generators);
    visit("scheduler", run.schedule);
    visit("log", run.log);
    visit("sampler", run.position);
    if (run.scale.is_on()) visit("scaler", run.scale);
  }
};

}  // namespace kto
