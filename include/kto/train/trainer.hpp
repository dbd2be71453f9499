// SPDX-License-Identifier: Apache-2.0
// The trainer: policies composed at compile time, and the loop over windows of micro-batches. A step is
//   window = the next gradient_accumulation_steps micro-batches
//   without gradient: the reference's log-probs and, if the loss needs it, z0 from mismatched pairs
//   for each micro-batch: log-probs -> loss per row -> weights, mean over the window -> backward
//   clip, optimizer, schedule; then log and evaluate when due
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>

#include "kto/nn/weight_grad.hpp"
#include "kto/train/best.hpp"
#include "kto/train/check_start.hpp"
#include "kto/train/checkpoint/checkpointer.hpp"
#include "kto/train/contract.hpp"
#include "kto/train/evaluate.hpp"
#include "kto/train/feed/feed.hpp"
#include "kto/train/finite.hpp"
#include "kto/train/flos.hpp"
#include "kto/train/loss_scale.hpp"
#include "kto/train/options/options.hpp"
#include "kto/train/run_log.hpp"
#include "kto/train/run_setup.hpp"

namespace kto {

/// Trains `model` with `loss` against `reference`. An aggregate: name the policies, the types are deduced.
///   kto::Trainer trainer{.model = model, .collator = kto::PackedCollator{}, .loss = kto::Kto{},
///                        .reference = kto::live_reference(model), .config = {...}};
///   kto::TrainerState state = trainer.train(rows, eval_rows);
template <class Model, class Collator, class Loss, class Reference, class Optimizer = AdamW>
struct Trainer {
  static_assert(sizeof(TrainerContract<Model, Collator, Loss, Reference, Optimizer>) > 0);
  /// The contract holds. Where it does not, the bodies below are left out, so that its advice is the only error.
  static constexpr bool is_sound = ModelPolicy<Model> && CollatorPolicy<Collator> && LossPolicy<Loss, Tensor> &&
                                   ReferencePolicy<Reference, Model> && OptimizerPolicy<Optimizer> &&
                                   FeedsLoss<Collator, Loss> && FeedsModel<Collator, Model>;

  Model model;
  Collator collator = {};
  Loss loss = {};
  Reference reference;
  TrainConfig config = {};
  Callbacks callbacks = {};
  EvaluationHooks evaluation = {};
  Optimizer optimizer = make_optimizer<Optimizer>(config);
  /// Learning rate of update number `step`, counted from 0; config's schedule when empty.
  std::function<double(std::int64_t step)> learning_rate = {};
  /// How checkpoints are written; config says when.
  Checkpointing checkpointing = {};

  /// Trains on `rows`, and evaluates on `eval_sets`, rows or several sets by name, when config.eval_strategy says so.
  /// Where the loss is one of pairs, rows are chosen, rejected, chosen, rejected, ... Throws Error on rows that make no
  /// batch, on a model without trained parameters, on a loss that is not finite (see config.nonfinite_loss) or weights
  /// that are not, and on a checkpoint that cannot be written or resumed from; UsageError on a config out of range.
  /// A run that is to end (see StopSignals) saves the state after its last update, and returns.
  TrainerState train(std::span<const Example> rows, const EvaluationSets& eval_sets = {}) {
    if constexpr (is_sound) {
      validate(config);
      MemoryFeed<Collator> feed(rows, collator, config, {paired, FixesKlPairs<Reference>}, Loss::needs.kl_pairs);
      return run(feed, static_cast<std::int64_t>(detail::num_units(rows, paired)), rows, eval_sets);
    } else {
      return {};
    }
  }

  /// The same on rows that need not fit into memory (see RowStream), for config.max_steps updates. Throws UsageError
  /// naming an option that needs all rows at once.
  TrainerState train(const RowStream& rows, const EvaluationSets& eval_sets = {}) {
    if constexpr (is_sound) {
      validate(config);
      static_assert(!FixesKlPairs<Reference>, "kto: a precomputed reference needs its rows in memory");
      StreamFeed<Collator> feed(rows, collator, config, paired, Loss::needs.kl_pairs);
      const std::int64_t num_rows =
          config.max_steps * config.gradient_accumulation_steps * config.per_device_train_batch_size;
      return run(feed, num_rows, {}, eval_sets);
    } else {
      return {};
    }
  }

  /// Mean loss and metrics over rows, or over each of several sets, without gradient, under transformers' names:
  /// `prefix`, the set's name and _ where it has one, and loss, kl, ...
  Json evaluate(const EvaluationSets& sets, const std::string& prefix = "eval_", std::int64_t num_tokens = 0) {
    Json out = Json::object();
    if constexpr (is_sound)
      for_each_evaluation(sets, prefix, num_tokens, [&](const Json& metrics) { out.update(metrics); });
    return out;
  }

 private:
  static constexpr bool paired = [] {
    if constexpr (is_sound) return Loss::needs.chosen_rejected;
    return false;
  }();

  /// The loop over the windows that `feed` gives; `rows` are those it takes them from, where they are in memory.
  TrainerState run(Feed& feed, std::int64_t num_units, std::span<const Example> rows,
                   const EvaluationSets& eval_sets) try {
    check(!paired || (config.desirable_weight == 1 && config.undesirable_weight == 1),
          "desirable_weight and undesirable_weight apply to single rows, but this loss uses pairs: leave both at 1");
    check_best_metric(config, eval_sets);
    const Plan plan = plan_of(config, feed, num_units);
    if constexpr (Loss::needs.kl_pairs) check_kl_groups(config, feed.batch_sizes(0));
    LearningRate schedule = learning_rate_of(config, plan.num_warmup_steps, plan.num_steps);
    const RunSetup setup(config);
    set_neftune();
    check_reference(model, reference);
    check_precision(model, config.fp16);
    const auto note = [this](const std::string& text) { detail::call(callbacks, &Callback::on_note, text); };
    Checkpointer checkpointer(config, checkpointing, plan, note);
    if (checkpointer.is_on()) checkpointer.identify(*this, rows, eval_sets);
    const WeightWatch watch(model);
    Updates<Optimizer> updates(model, optimizer, config.optim_in_backward);
    TrainerState state;
    Control control;
    RunLog log(config.logging_nan_inf_filter);
    LossScale scale(config.fp16);
    Position position;
    at::manual_seed(static_cast<std::uint64_t>(config.seed));  // dropout; LibTorch's own seed is another each time
    std::vector<std::string> notes;
    if (checkpointer.resumes())
      notes = checkpointer.resume(model, loss, reference, updates, schedule, scale, log, state, position);
    if (config.ignore_data_skip) position = epoch_begun(config, feed, plan, position);
    detail::call(callbacks, &Callback::on_train_begin, state, plan);
    notes.push_back(forget_lost_best(state));
    if constexpr (Loss::needs.kl_pairs)
      notes.push_back(lone_row_note(config, feed.batch_sizes(0), plan, state.global_step));
    for (const std::string& text : notes)
      if (!text.empty()) note(text);
    if (config.eval_on_start && state.global_step == 0)
      evaluate_now(eval_sets, state, control);  // not for the learning rate to follow

    const auto save = [&] {
      watch.check_after(model, state.global_step);
      position.stream = feed.passed();
      detail::call(callbacks, &Callback::on_save, state,
                   checkpointer.save(model, loss, reference, updates, schedule, scale, log, state, position));
    };
    const auto finish_step = [&] {
      const bool due = after_step(plan, !feed.has_next(), eval_sets, state, log, control, schedule);
      if (due && !checkpointer.has_saved(state.global_step)) save();
    };
    const auto goes_on = [&] { return state.global_step < plan.num_steps && !control.should_stop; };
    try {
      for (; state.evaluation_due || goes_on(); position = {position.epoch + 1, 0}) {
        feed.begin(position);
        if (state.evaluation_due) finish_step();
        while (goes_on() && feed.has_next()) {
          check_interrupt();
          detail::call(callbacks, &Callback::on_step_begin, state, control);
          log.learning_rate = learning_rate ? learning_rate(state.global_step) : schedule(state.global_step);
          std::vector<Batch> window = feed.next(device());
          position.batch += static_cast<std::int64_t>(window.size());
          step(std::move(window), updates, scale, state, log);
          state.epoch = static_cast<double>(position.epoch) +
                        static_cast<double>(position.batch) / static_cast<double>(feed.num_batches());
          finish_step();
        }
      }
    } catch (const Interrupted&) {  // between two updates
      control.interrupted = true;
      if (state.global_step > 0 && checkpointer.is_on() && !checkpointer.has_saved(state.global_step)) save();
    }
    state.interrupted = control.interrupted && (state.evaluation_due || state.global_step < plan.num_steps);
    if (state.interrupted) return state;
    const Uninterrupted ending;
    watch.check_after(model, state.global_step);
    if (const std::string text = forget_lost_best(state); !text.empty()) note(text);
    if (config.load_best_model_at_end && state.best_model_checkpoint) try {
        restore_parameters(model, checkpointer.own_checkpoint(*state.best_model_checkpoint));
      } catch (const Error& error) {  // what was trained is not lost for it
        note(concat(error_text(error), "; the run ends with its last weights"));
        state.best_model_checkpoint.reset();
      }
    Json closing = log.finish(state, num_samples(config, state, plan, rows.size()));
    closing.update(setup.memory_metrics());
    append(std::move(closing), state, control);
    checkpointer.finish(state);
    detail::call(callbacks, &Callback::on_train_end, state);
    return state;
  } catch (const Interrupted&) {  // before the first update: there is nothing to save
    return {.interrupted = true};
  }

  void set_neftune() {
    if constexpr (requires { model.neftune_noise_alpha = 0.0; })
      model.neftune_noise_alpha = config.neftune_noise_alpha.value_or(0);
    else
      check(!config.neftune_noise_alpha, "neftune_noise_alpha is set, but your model has no such member");
  }

  at::Device device() const { return model.named_parameters().front().second.device(); }

  void step(std::vector<Batch> batches, Updates<Optimizer>& updates, LossScale& scale, TrainerState& state,
            RunLog& log) {
    const Uninterrupted whole;
    std::optional<InPlaceGradients> in_place(std::in_place);
    std::optional<CastOnce> casts;  // no weight changes until it is gone, but after its last use
    if (std::ranges::all_of(batches,
                            [](const Batch& batch) { return batch.rows.num_tokens < CastOnce::enough_tokens; }))
      casts.emplace();
    const auto window = prepare_window<Loss>(model, reference, std::move(batches), config.kl_scope);
    updates.begin(log.learning_rate);
    const std::size_t mark = log.metrics.size();
    std::vector<Tensor> losses, shares;  // [B] and without dimensions
    const Loss before = loss;
    for (const PreparedBatch& prepared : window) {
      const bool first = state.global_step == 0;
      const Tensor share = micro_batch_loss(model, loss, prepared, config, log.metrics, [&](const Observation& seen) {
        losses.push_back(seen.terms.loss_B.detach());
        if (!first) return;
        if (!config.neftune_noise_alpha) check_first_logps(seen.input, reference);
        check_first_loss(seen.terms);
      });
      if (!updates.in_backward() || !not_finite(window, losses, updates.grad_norm())) scale.scaled(share).backward();
      shares.push_back(share.detach());
      const Sequences& rows = prepared.batch.rows;
      state.num_tokens += rows.num_tokens;
      state.total_flos += estimated_flos(model, rows);
      if (config.include_num_input_tokens_seen != InputTokens::no)
        state.num_input_tokens_seen = log.num_input_tokens +=
            config.include_num_input_tokens_seen == InputTokens::all ? rows.ids_N.size(0) : rows.num_tokens;
    }
    casts.reset(), in_place.reset();
    const Tensor grad_norm = updates.grad_norm() / scale.value();
    ++state.global_step;
    const auto problem = not_finite(window, losses, grad_norm);
    const bool overflows = problem && !problem->is_loss && scale.is_on();
    if (problem && !overflows) {
      log.metrics.resize(mark);
      loss = before;
      log.skip_step(shares);
      skip(problem->what, state, log);
    } else {
      log.add_step(shares, overflows ? Tensor() : grad_norm);
    }
    if (!problem) {
      const Tensor divisor = grad_divisor(grad_norm, scale.value(), config.max_grad_norm);
      updates.finish({.learning_rate = log.learning_rate, .grad_divisor = divisor});
    }
    updates.end();
    if (overflows && scale.num_skipped() == 0)
      detail::call(callbacks, &Callback::on_note,
                   concat("step ", state.global_step, ": the gradient overflows float16 at a loss scale of ",
                          scale.value(), "; the step is skipped and the scale halved. Later ones are not ",
                          "noted: see loss_scale in the log"));
    scale.follow(!problem, state.global_step);
    if (scale.is_on()) log.loss_scale = scale.value();
    if (config.torch_empty_cache_steps && state.global_step % *config.torch_empty_cache_steps == 0)
      release_cached_memory(device());
    if constexpr (requires { reference.starts_as_policy; }) reference.starts_as_policy = false;  // it did
    if constexpr (FollowsPolicy<Reference, Model>) reference.follow(model, state.global_step);
  }

  /// Leaves an update out where config allows that.
  void skip(const std::string& problem, const TrainerState& state, RunLog& log) {
    constexpr int most = 10;
    check(config.nonfinite_loss == NonFiniteLoss::skip, "step ", state.global_step, ": ", problem,
          "; this step changed no weight. Lower learning_rate, check those rows, or skip such steps with "
          "nonfinite_loss skip");
    check(log.num_skipped_in_a_row < most, "step ", state.global_step, ": ", problem, ", as in the ", most - 1,
          " steps before: the weights are damaged, or learning_rate is far too high");
    if (log.num_skipped_in_all() == 1)
      detail::call(callbacks, &Callback::on_note,
                   concat("step ", state.global_step, ": ", problem,
                          "; the step is skipped. Later ones are not noted: see skipped_steps in the log"));
  }

  /// Logs and evaluates when due; true when a checkpoint is due. Where the evaluation was broken off in an earlier run,
  /// all before it is done.
  bool after_step(const Plan& plan, bool epoch_ends, const EvaluationSets& eval_sets, TrainerState& state, RunLog& log,
                  Control& control, LearningRate& schedule) {
    const bool run_ends = state.global_step == plan.num_steps;
    const auto epoch_is_over = [&] {  // or broken off for good
      return epoch_ends || run_ends || (control.should_stop && !control.interrupted);
    };
    const auto due = [&](IntervalStrategy strategy, std::int64_t every) {
      return (strategy == IntervalStrategy::steps && every > 0 && state.global_step % every == 0) ||
             (strategy == IntervalStrategy::epoch && epoch_is_over());
    };
    const bool again = std::exchange(state.evaluation_due, false);
    if (!again) detail::call(callbacks, &Callback::on_step_end, state, control);
    const bool first = config.logging_first_step && state.global_step == 1;
    const bool logged = first || due(config.logging_strategy, plan.logging_steps);
    if (logged && !again) append(log.take(state), state, control);
    bool is_best = false;
    const double waited =
        config.eval_strategy == IntervalStrategy::epoch ? state.epoch : static_cast<double>(state.global_step);
    const bool last = run_ends && config.eval_strategy == IntervalStrategy::steps;
    if (waited >= config.eval_delay && (last || due(config.eval_strategy, plan.eval_steps))) {
      state.evaluation_due = true;
      const Json metrics = evaluate_now(eval_sets, state, control);
      state.evaluation_due = false;
      const Judgement judgement = judge(metrics, config, state);
      if (follows_evaluations(config.lr_scheduler_type))
        schedule.observe(metrics[best_metric_name(config)].template get<double>());
      is_best = judgement.is_best;
      control.should_stop = control.should_stop || judgement.should_stop;
    }
    if (!logged && due(config.logging_strategy, plan.logging_steps))  // the evaluation broke the epoch off
      append(log.take(state), state, control);
    const bool asked = std::exchange(control.should_save, false);
    return asked || (config.save_strategy == SaveStrategy::best && is_best) ||
           (config.save_strategy == SaveStrategy::epoch && epoch_is_over()) ||
           (config.save_strategy == SaveStrategy::steps && (run_ends || state.global_step % plan.save_steps == 0));
  }

  template <class Take>
  void for_each_evaluation(const EvaluationSets& sets, const std::string& prefix, std::int64_t num_tokens,
                           const Take& take) {
    check(!sets.empty(), "no rows to evaluate on");
    for (const EvaluationSet& set : sets)
      take(kto::evaluate(model, collator, loss, reference, config, set.rows, prefix + set.prefix(), num_tokens,
                         evaluation, callbacks));
  }

  /// All metrics of an evaluation; each set has a log entry of its own, as in transformers. One that is broken off
  /// leaves none.
  Json evaluate_now(const EvaluationSets& sets, TrainerState& state, Control& control) {
    Json out = Json::object();
    const std::size_t num_entries = state.log_history.size();
    try {
      for_each_evaluation(sets, "eval_", state.num_tokens, [&](const Json& metrics) {
        append(metrics, state, control);
        detail::call(callbacks, &Callback::on_evaluate, state, metrics, control);
        out.update(metrics);
      });
    } catch (const Interrupted&) {
      state.log_history.get_ref<Json::array_t&>().resize(num_entries);
      throw;
    }
    return out;
  }

  void append(Json entry, TrainerState& state, Control& control) {
    entry["epoch"] = state.epoch;
    if (config.include_num_input_tokens_seen != InputTokens::no)
      entry["num_input_tokens_seen"] = state.num_input_tokens_seen;
    entry["step"] = state.global_step;
    detail::call(callbacks, &Callback::on_log, state, entry, control);
    state.log_history.push_back(std::move(entry));
  }
};

}  // namespace kto
