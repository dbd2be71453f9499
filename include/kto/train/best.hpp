// SPDX-License-Identifier: Apache-2.0
// Which evaluation was the best, and when to stop early: transformers' metric_for_best_model and EarlyStoppingCallback.
#pragma once

#include <cmath>
#include <string>

#include "kto/train/evaluation_sets.hpp"
#include "kto/train/state.hpp"

namespace kto {

/// The metric to compare, such as "eval_loss"; empty if `config` needs no best model.
inline std::string best_metric_name(const TrainConfig& config) {
  const bool needed = config.load_best_model_at_end || config.early_stopping_patience ||
                      config.save_strategy == SaveStrategy::best || follows_evaluations(config.lr_scheduler_type);
  if (!config.metric_for_best_model && !needed) return "";
  const std::string name = config.metric_for_best_model.value_or("loss");
  return name.starts_with("eval_") ? name : "eval_" + name;
}

/// Throws UsageError if there are several evaluation sets and none has the metric that `config` compares.
inline void check_best_metric(const TrainConfig& config, const EvaluationSets& sets) {
  const std::string name = best_metric_name(config);
  if (config.eval_strategy == IntervalStrategy::no || name.empty() || !sets.has_names()) return;
  std::string known;
  for (const EvaluationSet& set : sets) {
    if (name.starts_with("eval_" + set.prefix())) return;
    known += concat(known.empty() ? "" : ", ", "eval_", set.prefix(), "loss");
  }
  throw UsageError(
      concat("metric_for_best_model: ", name, " is not a metric of the evaluation sets; name one such as ", known));
}

struct Judgement {
  bool is_best = false;
  bool should_stop = false;
};

/// Compares an evaluation's `metrics` with the best so far and keeps the better in `state`. Throws Error when the
/// metric is not among them.
inline Judgement judge(const Json& metrics, const TrainConfig& config, TrainerState& state) {
  const std::string name = best_metric_name(config);
  if (name.empty()) return {};
  if (!metrics.contains(name) || !metrics[name].is_number()) {
    std::string known;
    for (const auto& [key, value] : metrics.items())
      if (value.is_number()) known += (known.empty() ? "" : ", ") + key;
    fail("metric_for_best_model: the evaluation has no ", name, "; it has ", known);
  }
  const double value = metrics[name].get<double>();
  const bool greater = config.greater_is_better.value_or(!name.ends_with("loss"));
  const auto is_better = [&](double than) { return greater ? value > than : value < than; };
  Judgement out;
  const bool counts = !state.best_metric || (is_better(*state.best_metric) &&
                                             std::abs(value - *state.best_metric) > config.early_stopping_threshold);
  state.num_not_better = counts ? 0 : state.num_not_better + 1;
  out.should_stop = config.early_stopping_patience && state.num_not_better >= *config.early_stopping_patience;
  out.is_best = std::isfinite(value) && (!state.best_metric || is_better(*state.best_metric));
  if (out.is_best) {
    state.best_metric = value;
    state.best_global_step = state.global_step;
  }
  return out;
}

}  // namespace kto
