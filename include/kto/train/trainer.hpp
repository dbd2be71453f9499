// SPDX-License-Identifier: Apache-2.0
// The trainer: policies composed at compile time, and the loop over windows of micro-batches. A step is
//   window = the next gradient_accumulation_steps micro-batches
//   without gradient: the reference's log-probs and, if the loss needs it, z0 from mismatched pairs
//   for each micro-batch: log-probs -> loss per row -> weights, mean over the window -> backward
//   clip, optimizer, schedule; then log and evaluate when due
// With several ranks, a window is that of all of them, each computes its micro-batches, and gradients are summed.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>

#include "kto/train/check_start.hpp"
#include "kto/train/checkpoint/checkpointer.hpp"
#include "kto/train/contract.hpp"
#include "kto/train/evaluate.hpp"
#include "kto/train/finite.hpp"
#include "kto/train/flos.hpp"
#include "kto/train/journal.hpp"
#include "kto/train/kept_logps.hpp"
#include "kto/train/options/options.hpp"
#include "kto/train/run_setup.hpp"
#include "kto/train/window_update.hpp"

namespace kto {

/// Trains `model` with `loss` against `reference`. An aggregate: name the policies, the types are deduced.
///   kto::Trainer trainer{.model = model, .collator = kto::PackedCollator{}, .loss = kto::Kto{},
///                        .reference = kto::live_reference(model), .config = {...}};
///   kto::TrainerState state = trainer.train(rows, eval_rows);
template <class Model, class Collator, class Loss, class Reference, class Optimizer = AdamW>
struct Trainer {
  static_assert(sizeof(TrainerContract<Model, Collator, Loss, Reference, Optimizer>) > 0);
  /// Whether the contract holds. If not, the bodies below are skipped, so that its advice is the only error.
  static constexpr bool is_sound = ModelPolicy<Model> && CollatorPolicy<Collator> && LossPolicy<Loss, Tensor> &&
                                   ReferencePolicy<Reference, Model> && OptimizerPolicy<Optimizer> &&
                                   FeedsLoss<Collator, Loss> && FeedsModel<Collator, Model>;

  Model model;                      ///< the policy; its parameters with requires_grad are trained
  Collator collator = {};           ///< makes batches of rows
  Loss loss = {};                   ///< per row or pair
  Reference reference;              ///< what the policy is held to
  TrainConfig config = {};          ///< the settings
  Callbacks callbacks = {};         ///< called in order, on rank 0
  EvaluationHooks evaluation = {};  ///< metrics of your own
  Optimizer optimizer = make_optimizer<Optimizer>(config);  ///< default: as config says
  /// The learning rate of update number `step`, counted from 0; if empty, config's schedule.
  std::function<double(std::int64_t step)> learning_rate = {};
  /// How checkpoints are written; config says when.
  Checkpointing checkpointing = {};
  /// The processes that train together; default: this one alone. All make the same calls with the same rows; callbacks,
  /// hooks and files are rank 0's.
  World world = {};

  /// Trains on `rows`, and evaluates on `eval_sets` (one set of rows, or several by name) as config.eval_strategy says.
  /// For a loss of pairs, rows alternate: chosen, rejected, chosen, rejected, ... Throws Error if the rows do not make
  /// a batch, the model has no trained parameters, a loss (see config.nonfinite_loss) or weight is not finite, or a
  /// checkpoint cannot be written or resumed from; UsageError if a config value is out of range. A run that is asked to
  /// stop (see StopSignals) saves the state after its last update, and returns.
  TrainerState train(std::span<const Example> rows, const EvaluationSets& eval_sets = {}) {
    if constexpr (is_sound) {
      validate(config);
      share_out();
      const TrainConfig whole = of_all_ranks(config, world);
      MemoryFeed<Collator> feed(rows, collator, whole, {paired, FixesKlPairs<Reference>}, Loss::needs.kl_pairs, world);
      return run(feed, whole, static_cast<std::int64_t>(detail::num_units(rows, paired)), rows, eval_sets);
    } else {
      return {};
    }
  }

  /// The same on rows that need not fit into memory (see RowStream), for config.max_steps updates. Throws UsageError
  /// naming an option that needs all rows in memory.
  TrainerState train(const RowStream& rows, const EvaluationSets& eval_sets = {}) {
    if constexpr (is_sound) {
      validate(config);
      static_assert(!FixesKlPairs<Reference>, "kto: a precomputed reference needs its rows in memory");
      share_out();
      const TrainConfig whole = of_all_ranks(config, world);
      StreamFeed<Collator> feed(rows, collator, whole, paired, Loss::needs.kl_pairs, world);
      const std::int64_t num_rows =
          whole.max_steps * whole.gradient_accumulation_steps * whole.per_device_train_batch_size;
      return run(feed, whole, num_rows, {}, eval_sets);
    } else {
      return {};
    }
  }

  /// Mean loss and metrics over rows, or over each of several sets, without gradient, under transformers' names:
  /// `prefix`, the set's name and _ if it has one, and loss, kl, ...
  Json evaluate(const EvaluationSets& sets, const std::string& prefix = "eval_", std::int64_t num_tokens = 0) {
    Json out = Json::object();
    if constexpr (is_sound) {
      const Numerics numerics(config, device_of(model));
      for_each_evaluation(sets, prefix, num_tokens, [&](const Json& metrics) { out.update(metrics); });
    }
    return out;
  }

  /// The number of updates so far, over all runs of this trainer. Before the first one, a reference that starts as the
  /// policy is compared with it.
  std::int64_t num_updates = 0;

 private:
  static constexpr bool paired = [] {
    if constexpr (is_sound) return Loss::needs.chosen_rejected;
    return false;
  }();

  /// With zero_stage 3, the ranks share out the weights of the model and of its reference, and `world` gathers them.
  void share_out() {
    if (config.zero_stage < 3 || world.alone()) return;
    if constexpr (SharesWeights<Model>) {
      world = with_units(world);
      const bool cuts_inside = detail::is_elementwise(optimizer);
      share_weights(model, world, cuts_inside);
      visit_models(reference, [&](const auto& held) {
        if constexpr (SharesWeights<std::remove_cvref_t<decltype(held)>>) share_weights(held, world, cuts_inside);
      });
    } else {
      throw UsageError(
          "zero_stage 3: this model cannot fetch its weights layer by layer (see SharesWeights in "
          "kto/model/concept.hpp): set zero_stage to 2");
    }
  }

  /// The loop over the windows of `feed`. `rows` are its rows, if they are in memory; `whole` is config of_all_ranks().
  TrainerState run(Feed& feed, const TrainConfig& whole, std::int64_t num_units, std::span<const Example> rows,
                   const EvaluationSets& eval_sets) try {
    feed.share.step_size = step_size_of(config, world);
    const Plan plan = plan_of(whole, feed, num_units);
    check_settings<Loss>(whole, feed, eval_sets);
    Run run{plan, learning_rate_of(config, plan.num_warmup_steps, plan.num_steps), LossScale(config.fp16),
            RunLog(config.logging_nan_inf_filter)};
    const RunSetup setup(config, device_of(model), world);
    set_noise(model, config);
    name_rows(reference, rows, eval_sets);
    check_policies(model, reference, config);
    TrainerState& state = run.state;
    Journal journal(
        whole, callbacks, run,
        [&](const auto& take) {
          for_each_evaluation(eval_sets, "eval_", state.num_tokens, take, is_still_policy(state));
        },
        world);
    Checkpointer checkpointer(
        config, checkpointing, plan, [&](const std::string& text) { journal.note(text); }, feed.share);
    if (checkpointer.is_on() || !world.alone()) checkpointer.identify(*this, rows, eval_sets);
    const WeightWatch watch(model);
    run.updates =
        make_updates(model, optimizer, config.optim_in_backward, config.max_grad_norm, world, config.zero_stage);
    RunParts<Model, Loss, Reference> parts{model, loss, reference, run, world};
    const auto save = [&] {
      watch.check_after(model, state.global_step);
      run.position.stream = feed.passed();
      journal.call(&Callback::on_save, state, checkpointer.save(parts));
    };
    const auto end_step = [&] {
      const bool due = journal.after_step(/*epoch_ends=*/!feed.has_next());
      if (due && !checkpointer.has_saved(state.global_step)) save();
    };

    std::vector<std::string> notes = checkpointer.resume(parts);
    if (config.ignore_data_skip) run.position = epoch_begun(whole, feed, plan, run.position);
    if constexpr (Loss::needs.kl_pairs)
      notes.push_back(lone_row_note(whole, feed.batch_sizes(0), plan, state.global_step));
    journal.begin(notes);
    try {
      for (; state.evaluation_due || run.should_go_on(); run.position = {run.position.epoch + 1, 0}) {
        together(world, [&] { feed.begin(run.position); });
        let_go_if_done<Loss>(reference, feed, run.position.epoch, plan, config, eval_sets, device_of(model));
        if (state.evaluation_due) end_step();
        while (run.should_go_on() && feed.has_next()) {
          journal.check_interrupt();
          journal.call(&Callback::on_step_begin, state, run.control);
          run.log.learning_rate = learning_rate ? learning_rate(state.global_step) : run.schedule(state.global_step);
          Window window;
          together(world, [&] { window = feed.next(device_of(model)); });
          step(run, window, feed, journal);
          run.advance(window.num_batches, feed.num_batches(), feed.share);
          end_step();
        }
      }
    } catch (const Interrupted&) {  // between two updates
      run.control.interrupted = true;
      if (state.global_step > 0 && checkpointer.is_on() && !checkpointer.has_saved(state.global_step)) save();
    }
    state.interrupted = run.control.interrupted && (state.evaluation_due || !run.is_complete());
    if (!state.interrupted) close(run, journal, checkpointer, watch, rows.size(), setup.memory_metrics());
    return state;
  } catch (const Interrupted&) {  // before the first update: there is nothing to save
    return {.interrupted = true};
  }

  /// One update from one window of micro-batches, which it takes.
  void step(Run& run, Window& window, Feed& feed, const Journal& journal) {
    const Share& share = feed.share;
    WindowUpdate update(run, config, share, window, [&](const std::string& text) { journal.note(text); });
    const KlScope scope = config.kl_scope;
    const bool with_baseline = prepares_baselines<Loss>(window, scope, share);
    const Loss before = loss;
    Attempt attempt;
    std::vector<PreparedBatch> batches;
    attempt([&] { batches = prepare_window<Loss>(model, reference, window, scope, share, with_baseline); });
    if (with_baseline) share_baselines(batches, window, scope, share);
    for (std::size_t i = 0; i < share.num_turns(window.num_batches); ++i) {
      Turn turn(world, loss, window.step_rows[share.step_of_turn(i)], Loss::needs.kl_pairs && !with_baseline);
      attempt([&] {
        if (i >= batches.size()) return;
        const auto observe = [&](const Observation& seen) {
          update.observe(seen);
          if (run.state.global_step > 0) return;
          if (is_still_policy(run.state)) check_first_logps(seen.input);
          check_first_loss(seen.terms);
        };
        update.backward(micro_batch_loss(model, loss, batches[i], config, turn, run.log.metrics, observe));
        const Sequences& rows_N = batches[i].batch.rows;
        run.count(rows_N, estimated_flos(model, rows_N), config.include_num_input_tokens_seen);
      });
      turn.leave(loss);
    }
    feed.make_ahead(device_of(model));
    update.finish(attempt, /*undo=*/[&] { loss = before; });  // clip, optimizer
    ++num_updates;
    const std::int64_t step = run.state.global_step;
    if (config.torch_empty_cache_steps && step % *config.torch_empty_cache_steps == 0)
      release_cached_memory(device_of(model));
    if constexpr (FollowsPolicy<Reference, Model>) reference.follow(model, step);
  }

  /// Ends a run that is complete, or was stopped for good.
  void close(Run& run, Journal& journal, Checkpointer& checkpointer, const WeightWatch& watch, std::size_t num_rows,
             const Json& memory) {
    const Uninterrupted to_its_end;
    watch.check_after(model, run.state.global_step);
    journal.note(forget_lost_best(run.state));
    journal.note(checkpointer.restore_best(model, run.state));
    journal.close(num_rows, memory);
    checkpointer.finish(run.state);
    journal.call(&Callback::on_train_end, run.state);
    journal.agree();
  }

  template <class Take>
  void for_each_evaluation(const EvaluationSets& sets, const std::string& prefix, std::int64_t num_tokens,
                           const Take& take, bool is_policy = false) {
    check(!sets.empty(), "no rows to evaluate on");
    for (const EvaluationSet& set : sets)
      take(kto::evaluate(model, collator, loss, reference, config, set.rows, prefix + set.prefix(), num_tokens,
                         evaluation, callbacks, world, is_policy));
  }

  /// Whether the reference says that it is the policy, which neither this trainer nor an earlier run has trained yet, and
  /// which computes without noise.
  bool is_still_policy(const TrainerState& state) const {
    if constexpr (SaysStartsAsPolicy<Reference>)
      return reference.starts_as_policy && num_updates == 0 && state.global_step == 0 && !config.neftune_noise_alpha;
    return false;
  }
};

}  // namespace kto
