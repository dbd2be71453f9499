// SPDX-License-Identifier: Apache-2.0
// The trainer: four policies composed at compile time, and the loop over windows of micro-batches. A step is
//   window = the next gradient_accumulation_steps micro-batches
//   without gradient, if the loss wants it: z0 from mismatched (prompt, completion) pairs; the reference's log-probs
//   for each micro-batch: log-probs -> loss per row -> weights, mean over the window -> backward
//   clip, optimizer, schedule; then log and evaluate when due
#pragma once

#include <chrono>
#include <span>

#include "kto/optim/adamw.hpp"
#include "kto/optim/schedule.hpp"
#include "kto/train/callbacks.hpp"
#include "kto/train/loader.hpp"
#include "kto/train/step.hpp"

namespace kto {

/// Trains `model` with `loss` against `reference`. An aggregate: name the policies, the types are deduced.
///   kto::Trainer trainer{.model = model, .collator = kto::PackedCollator{}, .loss = kto::Kto{},
///                        .reference = kto::live_reference(model), .config = {...}};
///   kto::TrainerState state = trainer.train(rows, eval_rows);
template <class Model, class Collator, class Loss, class Reference>
struct Trainer {
  static_assert(HasParameters<Model>,
                "kto: write `kto::NamedTensors named_parameters() const` in your model; see kto/model/concept.hpp");
  static_assert(GivesHidden<Model> || GivesLogits<Model>,
                "kto: write `hidden(sequences) const` and `head() const`, or `logits(sequences) const`, in your model; "
                "see kto/model/concept.hpp");
  static_assert(DeclaresProvides<Collator>,
                "kto: write `static constexpr kto::BatchParts provides{...};` in your collator; "
                "see kto/collate/concept.hpp");
  static_assert(MakesBatches<Collator>,
                "kto: write `kto::Batch operator()(std::span<const kto::Pick>, bool with_kl) const` in your collator; "
                "see kto/collate/concept.hpp");
  static_assert(DeclaresNeeds<Loss>,
                "kto: write `static constexpr kto::BatchParts needs{...};` in your loss; see kto/loss/concept.hpp");
  static_assert(MapsInputToTerms<Loss, Tensor>,
                "kto: write `kto::LossTerms<Array> operator()(const kto::LossInput<Array>&) const` in your loss; "
                "see kto/loss/concept.hpp");
  static_assert(ReferencePolicy<Reference, Model>,
                "kto: write `kto::ReferenceLogps log_probs(const Model&, const kto::Batch&) const` in your reference; "
                "see kto/reference/concept.hpp");
  static_assert(FeedsLoss<Collator, Loss>,
                "kto: your loss needs batch parts that your collator does not provide: compare Loss::needs with "
                "Collator::provides; see kto/collate/concept.hpp");

  Model model;
  Collator collator = {};
  Loss loss = {};
  Reference reference;
  TrainConfig config = {};
  Callbacks callbacks = {};

  /// Trains on `rows`, and evaluates on `eval_rows` when config.eval_strategy says so. Throws Error on rows that make
  /// no batch, on a model without trained parameters, and on a loss that is not finite.
  TrainerState train(std::span<const Example> rows, std::span<const Example> eval_rows = {}) {
    const Plan plan = make_plan(config, static_cast<std::int64_t>(rows.size()));
    const Schedule schedule{config.lr_scheduler_type, plan.num_warmup_steps, plan.num_steps};
    FlatParameters parameters = flatten_parameters(model);
    AdamW optimizer{config.adam_beta1, config.adam_beta2, config.adam_epsilon, config.weight_decay};
    TrainerState state;
    Control control;
    Progress progress{.start = Clock::now()};
    detail::call(callbacks, &Callback::on_train_begin, state, plan);
    if (config.eval_on_start && config.eval_strategy != IntervalStrategy::no)
      evaluate_and_log(eval_rows, state, control);

    for (std::int64_t epoch = 0; state.global_step < plan.num_steps && !control.should_stop; ++epoch) {
      const std::vector<Picks> batches = train_picks(rows, config, epoch);
      const auto window_size = static_cast<std::size_t>(config.gradient_accumulation_steps);
      for (std::size_t begin = 0; begin < batches.size(); begin += window_size) {
        if (state.global_step == plan.num_steps || control.should_stop) break;
        detail::call(callbacks, &Callback::on_step_begin, state, control);
        const auto window = std::span(batches).subspan(begin, std::min(window_size, batches.size() - begin));
        step(window, parameters, optimizer, config.learning_rate * schedule(state.global_step), state, progress);
        state.epoch = static_cast<double>(epoch) +
                      static_cast<double>(begin + window.size()) / static_cast<double>(batches.size());
        after_step(plan, begin + window.size() == batches.size(), eval_rows, state, progress, control);
      }
    }
    finish(rows.size(), state, progress);
    return state;
  }

  /// Mean loss and metrics over `rows`, without gradient, under transformers' names (`prefix` + loss, kl, ...).
  Json evaluate(std::span<const Example> rows, const std::string& prefix = "eval_", std::int64_t num_tokens = 0) const {
    check(!rows.empty(), "no rows to evaluate on");
    const at::NoGradGuard no_grad;
    const auto start = Clock::now();
    const std::vector<Picks> batches = eval_picks(rows, config);
    MetricWindow metrics;
    Tensor loss_sum;
    for (std::size_t i = 0; i < batches.size(); ++i) {
      const auto window = prepare_window<Loss>(model, reference, collate({&batches[i], 1}), KlScope::micro_batch);
      const Tensor sum =
          micro_batch_loss(model, loss, window[0], config, metrics) * static_cast<double>(batches[i].size());
      loss_sum = loss_sum.defined() ? loss_sum + sum : sum;
      detail::call(callbacks, &Callback::on_evaluate_batch, static_cast<std::int64_t>(i + 1),
                   static_cast<std::int64_t>(batches.size()));
    }
    const auto num_rows = static_cast<double>(rows.size());
    Json out = {{prefix + "loss", loss_sum.item<double>() / num_rows}};
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    out[prefix + "runtime"] = seconds;
    out[prefix + "samples_per_second"] = num_rows / seconds;
    out[prefix + "steps_per_second"] = static_cast<double>(batches.size()) / seconds;
    out.update(metrics.take(prefix, num_tokens));
    return out;
  }

 private:
  using Clock = std::chrono::steady_clock;

  struct Progress {
    Clock::time_point start;
    MetricWindow metrics = {};
    Tensor loss_sum = {};  // over the steps since the last log entry
    Tensor grad_norm = {};
    double learning_rate = 0;
    double total_loss = 0;
    std::int64_t last_logged = 0;
  };

  std::vector<Batch> collate(std::span<const Picks> picks) const {
    const at::Device device = model.named_parameters().front().second.device();
    std::vector<Batch> batches;
    for (const Picks& batch : picks) batches.push_back(to_device(collator(batch, Loss::needs.kl_pairs), device));
    return batches;
  }

  void step(std::span<const Picks> picks, FlatParameters& parameters, AdamW& optimizer, double learning_rate,
            TrainerState& state, Progress& progress) {
    const auto window = prepare_window<Loss>(model, reference, collate(picks), config.kl_scope);
    parameters.zero_grad();
    for (const PreparedBatch& prepared : window) {
      const Tensor share = micro_batch_loss(model, loss, prepared, config, progress.metrics);
      if (state.global_step == 0) check_first_loss(share);
      share.backward();
      progress.loss_sum = progress.loss_sum.defined() ? progress.loss_sum + share.detach() : share.detach();
      state.num_tokens += prepared.batch.rows.num_tokens;
    }
    progress.grad_norm = parameters.grad_norm();
    Update update{.learning_rate = learning_rate, .grad_divisor = {}};
    if (config.max_grad_norm > 0)  // divide by norm / max where the norm is larger, by 1 where not
      update.grad_divisor = ((progress.grad_norm + 1e-6) / config.max_grad_norm).clamp_min(1).to(at::kFloat);
    optimizer.step(parameters, update);
    progress.learning_rate = learning_rate;
    ++state.global_step;
  }

  void check_first_loss(const Tensor& share) const {
    check(share.requires_grad(), "the loss does not depend on policy_logp_B: its value carries no gradient");
    check(at::isfinite(share).item<bool>(), "the loss is not finite at the first step: ", share.item<double>(),
          "; no weight was changed");
  }

  void after_step(const Plan& plan, bool epoch_ends, std::span<const Example> eval_rows, TrainerState& state,
                  Progress& progress, Control& control) {
    const auto due = [&](IntervalStrategy strategy, std::int64_t every) {
      return (strategy == IntervalStrategy::steps && every > 0 && state.global_step % every == 0) ||
             (strategy == IntervalStrategy::epoch && epoch_ends);
    };
    detail::call(callbacks, &Callback::on_step_end, state, control);
    if (due(config.logging_strategy, plan.logging_steps) ||
        (config.logging_first_step && config.logging_strategy != IntervalStrategy::no && state.global_step == 1))
      log(state, progress, control);
    if (due(config.eval_strategy, plan.eval_steps)) evaluate_and_log(eval_rows, state, control);
  }

  void log(TrainerState& state, Progress& progress, Control& control) {
    const double loss_sum = take_loss(progress);
    Json entry = {{"loss", loss_sum / static_cast<double>(state.global_step - progress.last_logged)},
                  {"grad_norm", progress.grad_norm.template item<double>()},
                  {"learning_rate", progress.learning_rate}};
    check(std::isfinite(loss_sum), "the loss is not finite at step ", state.global_step,
          " or since the last log entry: lower learning_rate, or look at the rows of those steps");
    entry.update(progress.metrics.take("", state.num_tokens));
    progress.last_logged = state.global_step;
    append(std::move(entry), state, control);
  }

  void evaluate_and_log(std::span<const Example> eval_rows, TrainerState& state, Control& control) {
    Json metrics = evaluate(eval_rows, "eval_", state.num_tokens);
    append(metrics, state, control);
    detail::call(callbacks, &Callback::on_evaluate, state, metrics, control);
  }

  void append(Json entry, TrainerState& state, Control& control) {
    entry["epoch"] = state.epoch;
    entry["step"] = state.global_step;
    detail::call(callbacks, &Callback::on_log, state, entry, control);
    state.log_history.push_back(std::move(entry));
  }

  static double take_loss(Progress& progress) {
    if (!progress.loss_sum.defined()) return 0;
    const double sum = progress.loss_sum.template item<double>();
    progress.loss_sum = Tensor();
    progress.total_loss += sum;
    return sum;
  }

  void finish(std::size_t num_rows, TrainerState& state, Progress& progress) {
    take_loss(progress);
    const double seconds = std::chrono::duration<double>(Clock::now() - progress.start).count();
    const auto steps = static_cast<double>(state.global_step);
    const double samples =
        config.max_steps > 0
            ? steps * static_cast<double>(config.per_device_train_batch_size * config.gradient_accumulation_steps)
            : static_cast<double>(num_rows) * config.num_train_epochs;
    state.train_loss = progress.total_loss / std::max(1.0, steps);
    state.train_runtime = seconds;
    Control ended;
    append({{"train_runtime", seconds},
            {"train_samples_per_second", samples / seconds},
            {"train_steps_per_second", steps / seconds},
            {"train_loss", state.train_loss}},
           state, ended);
    detail::call(callbacks, &Callback::on_train_end, state);
  }
};

}  // namespace kto
