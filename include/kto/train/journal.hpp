// SPDX-License-Identifier: Apache-2.0
// What happens between two updates: the log, evaluations, which model is the best so far, the callbacks, and whether a
// checkpoint is due. Callbacks are rank 0's; what they ask for holds for all ranks.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "kto/train/attempt.hpp"
#include "kto/train/best.hpp"
#include "kto/train/run.hpp"

namespace kto {

class Journal {
 public:
  /// Evaluates the current model, and passes the metrics of each evaluation set to `take`.
  using Evaluate = std::function<void(const std::function<void(const Json& metrics)>& take)>;

  Journal(const TrainConfig& config, const Callbacks& callbacks, Run& run, Evaluate evaluate, World world = {})
      : config_(config), callbacks_(callbacks), run_(run), evaluate_(std::move(evaluate)), world_(std::move(world)) {}

  /// Calls `hook` of every callback that has it. With other ranks, an exception waits for the next agree().
  template <class Hook, class... Arguments>
  void call(Hook hook, Arguments&&... arguments) const {
    if (world_.alone())
      detail::call(callbacks_, hook, arguments...);
    else if (world_.is_first())
      calls_([&] { detail::call(callbacks_, hook, arguments...); });
  }
  /// What the callbacks and signals of one rank ask for holds for all of them.
  void agree() {
    if (world_.alone()) return;
    Control& control = run_.control;
    const auto asked = world_.sum(std::vector<double>{control.should_stop ? 1.0 : 0, control.should_save ? 1.0 : 0,
                                                      control.interrupted ? 1.0 : 0, is_interrupted() ? 1.0 : 0,
                                                      calls_.has_failed() ? 1.0 : 0});
    control = {.should_stop = asked[0] > 0, .should_save = asked[1] > 0, .interrupted = asked[2] > 0};
    is_interrupted_ = asked[3] > 0;
    if (asked[4] > 0) together(world_, [&] { calls_.check(); });
  }
  /// Throws Interrupted when work was asked to stop; with other ranks, if that was so at the latest agree().
  void check_interrupt() const {
    if (world_.alone()) return kto::check_interrupt();
    if (is_interrupted_) throw Interrupted{};
  }
  /// Reports `text` to the user, unless it is empty.
  void note(const std::string& text) const {
    if (!text.empty()) call(&Callback::on_note, text);
  }

  /// Begins the run, with notes for the user. Evaluates first if config says so; learning rates do not follow that
  /// evaluation.
  void begin(const std::vector<std::string>& notes) {
    call(&Callback::on_train_begin, run_.state, run_.plan);
    for (const std::string& text : notes) note(text);
    if (config_.eval_on_start && run_.state.global_step == 0) evaluate();
    agree();
  }

  /// Logs and evaluates when due; returns whether a checkpoint is due. `epoch_ends`: the step was the epoch's last. If
  /// the evaluation after this step was interrupted in an earlier run, everything before it is already done.
  bool after_step(bool epoch_ends) {
    TrainerState& state = run_.state;
    const bool again = std::exchange(state.evaluation_due, false);
    if (!again) call(&Callback::on_step_end, state, run_.control);
    const bool first = config_.logging_first_step && state.global_step == 1;
    const bool logs = first || is_due(config_.logging_strategy, run_.plan.logging_steps, epoch_ends);
    if (logs && !again) append(run_.log.take(state));
    bool is_best = false;
    if (evaluation_is_due(epoch_ends)) {
      state.evaluation_due = true;
      const Json metrics = evaluate();
      state.evaluation_due = false;
      is_best = follow(metrics);
    }
    if (!logs && is_due(config_.logging_strategy, run_.plan.logging_steps, epoch_ends))  // it ended the epoch
      append(run_.log.take(state));
    agree();
    const bool asked = std::exchange(run_.control.should_save, false);
    return asked || (config_.save_strategy == SaveStrategy::best && is_best) ||
           (config_.save_strategy == SaveStrategy::epoch && epoch_is_over(epoch_ends)) ||
           (config_.save_strategy == SaveStrategy::steps &&
            (run_.is_complete() || state.global_step % run_.plan.save_steps == 0));
  }

  /// All metrics of an evaluation. As in transformers, each set gets its own log entry. An interrupted evaluation
  /// leaves no entry.
  Json evaluate() {
    Json out = Json::object();
    TrainerState& state = run_.state;
    const std::size_t num_entries = state.log_history.size();
    try {
      evaluate_([&](const Json& metrics) {
        append(metrics);
        call(&Callback::on_evaluate, state, metrics, run_.control);
        out.update(metrics);
      });
    } catch (const Interrupted&) {
      state.log_history.get_ref<Json::array_t&>().resize(num_entries);
      throw;
    }
    return out;
  }

  /// The closing entry of a run over `num_rows` rows, with `more` in addition to its own numbers.
  void close(std::size_t num_rows, const Json& more) {
    Json entry = run_.log.finish(run_.state, num_samples(config_, run_.state, run_.plan, num_rows));
    entry.update(more);
    append(std::move(entry));
    agree();
  }

 private:
  bool epoch_is_over(bool epoch_ends) const {  // a run that is stopped for good also ends it
    return epoch_ends || run_.is_complete() || (run_.control.should_stop && !run_.control.interrupted);
  }
  bool is_due(IntervalStrategy strategy, std::int64_t every, bool epoch_ends) const {
    return (strategy == IntervalStrategy::steps && every > 0 && run_.state.global_step % every == 0) ||
           (strategy == IntervalStrategy::epoch && epoch_is_over(epoch_ends));
  }
  bool evaluation_is_due(bool epoch_ends) const {
    const double waited = config_.eval_strategy == IntervalStrategy::epoch
                              ? run_.state.epoch
                              : static_cast<double>(run_.state.global_step);
    const bool last = run_.is_complete() && config_.eval_strategy == IntervalStrategy::steps;
    return waited >= config_.eval_delay && (last || is_due(config_.eval_strategy, run_.plan.eval_steps, epoch_ends));
  }

  /// Applies an evaluation to the learning rate, the best model and early stopping. Returns whether it is the best.
  bool follow(const Json& metrics) {
    const Judgement judgement = judge(metrics, config_, run_.state);
    if (follows_evaluations(config_.lr_scheduler_type))
      run_.schedule.observe(metrics[best_metric_name(config_)].get<double>());
    run_.control.should_stop = run_.control.should_stop || judgement.should_stop;
    return judgement.is_best;
  }

  void append(Json entry) {
    TrainerState& state = run_.state;
    entry["epoch"] = state.epoch;
    if (config_.include_num_input_tokens_seen != InputTokens::no)
      entry["num_input_tokens_seen"] = state.num_input_tokens_seen;
    entry["step"] = state.global_step;
    call(&Callback::on_log, state, entry, run_.control);
    state.log_history.push_back(std::move(entry));
  }

  const TrainConfig& config_;
  const Callbacks& callbacks_;
  Run& run_;
  Evaluate evaluate_;
  World world_;
  mutable Attempt calls_;
  bool is_interrupted_ = false;
};

}  // namespace kto
