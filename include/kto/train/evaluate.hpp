// SPDX-License-Identifier: Apache-2.0
// Evaluation: the mean loss and metrics over a set of rows, without gradient, and the user's own metrics.
#pragma once

#include <chrono>
#include <cmath>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "kto/core/interrupt.hpp"
#include "kto/train/callbacks.hpp"
#include "kto/train/feed/loader.hpp"
#include "kto/train/feed/prefetch.hpp"
#include "kto/train/step.hpp"

namespace kto {

// Shapes: B all rows of the evaluation, C their scored tokens, V vocabulary.

/// The argument of compute_metrics, on the CPU.
struct EvalPrediction {
  Tensor policy_logp_B, reference_logp_B, reward_B;
  Tensor label_B;      ///< bool, true for desirable (chosen)
  Tensor predictions;  ///< results of preprocess_logits_for_metrics, concatenated; undefined without it
  Tensor target_C, row_C;
};

struct EvaluationHooks {
  /// The user's own metrics, logged under the evaluation's prefix.
  std::function<Json(const EvalPrediction&)> compute_metrics = {};
  /// Called with the logits [C, V] of each micro-batch and the ids to predict; its results are collected in
  /// EvalPrediction::predictions. Needs memory for the full logits of a micro-batch, which otherwise never exist.
  std::function<Tensor(const Tensor& logits_CV, const Tensor& target_C)> preprocess_logits_for_metrics = {};
  /// Sample replies to prompts of these rows, logged as `prefix` + "samples": a list of objects of texts
  /// (kto/generate/sample_replies.hpp).
  std::function<Json(std::span<const Example> rows)> samples = {};
};

namespace detail {

/// Collects an EvalPrediction.
class Predictions {
 public:
  template <class Model>
  void add(const Model& model, const EvaluationHooks& hooks, const Observation& seen) {
    const auto keep = [](std::vector<Tensor>& list, const Tensor& tensor) { list.push_back(tensor.detach().cpu()); };
    keep(policy_, seen.input.policy_logp_B);
    keep(reference_, seen.input.reference_logp_B);
    keep(reward_, seen.terms.reward_B);
    keep(label_, seen.batch.sign_B > 0);
    keep(target_, seen.batch.rows.target_C);
    keep(row_, seen.batch.rows.row_C + num_rows_);
    num_rows_ += seen.batch.rows.num_rows;
    if (hooks.preprocess_logits_for_metrics)
      keep(predictions_,
           hooks.preprocess_logits_for_metrics(completion_logits(model, seen.batch.rows), seen.batch.rows.target_C));
  }
  EvalPrediction take() const {
    return {at::cat(policy_),
            at::cat(reference_),
            at::cat(reward_),
            at::cat(label_),
            predictions_.empty() ? Tensor() : at::cat(predictions_),
            at::cat(target_),
            at::cat(row_)};
  }

 private:
  std::vector<Tensor> policy_, reference_, reward_, label_, predictions_, target_, row_;
  std::int64_t num_rows_ = 0;
};

/// The mean of the batches' mean losses, weighted by rows. With `filter`, only over finite batches, if there are any.
inline double mean_loss(const std::vector<Tensor>& mean_of_batch, const std::vector<Picks>& batches, bool filter) {
  const Tensor means = at::stack(mean_of_batch).to(at::kCPU, at::kDouble);
  const auto mean = means.accessor<double, 1>();
  const bool left_out = filter && at::isfinite(means).any().item<bool>();
  double sum = 0, num_rows = 0;
  for (std::size_t i = 0; i < batches.size(); ++i) {
    const double value = mean[static_cast<std::int64_t>(i)], rows = static_cast<double>(batches[i].size());
    if (left_out && !std::isfinite(value)) continue;
    sum += value * rows;
    num_rows += rows;
  }
  return sum / num_rows;
}

}  // namespace detail

/// Mean loss and metrics over `rows` under transformers' names: `prefix` + loss, runtime, ..., kl, rewards/chosen, ...
/// `num_tokens` is the run's count so far. Throws Error when there are no rows, and Interrupted between batches.
template <class Model, class Collator, class Loss, class Reference>
Json evaluate(const Model& model, const Collator& collator, Loss& loss, const Reference& reference,
              const TrainConfig& config, std::span<const Example> rows, const std::string& prefix = "eval_",
              std::int64_t num_tokens = 0, const EvaluationHooks& hooks = {}, const Callbacks& callbacks = {}) {
  check(!rows.empty(), "no rows to evaluate on");
  const at::NoGradGuard no_grad;
  const auto start = std::chrono::steady_clock::now();
  const std::vector<Picks> batches = eval_picks(rows, config, Loss::needs.chosen_rejected);
  BatchSource source(collator, batches, Loss::needs.kl_pairs, config.dataloader_num_workers,
                     config.dataloader_prefetch_factor.value_or(2));
  const at::Device device = device_of(model);
  const bool has_metrics = hooks.compute_metrics && !config.prediction_loss_only;
  MetricWindow metrics;
  detail::Predictions predictions;
  std::vector<Tensor> losses;  // scalars, one per batch
  for (std::size_t i = 0; i < batches.size(); ++i) {
    check_interrupt();
    std::vector<Batch> single;
    single.push_back(to_device(source.next(), device));
    const auto window = prepare_window<Loss>(model, reference, std::move(single), KlScope::micro_batch);
    const auto observe = [&](const Observation& seen) {
      if (has_metrics) predictions.add(model, hooks, seen);
    };
    losses.push_back(micro_batch_loss(model, loss, window[0], config, metrics, observe));
    detail::call(callbacks, &Callback::on_evaluate_batch, static_cast<std::int64_t>(i + 1),
                 static_cast<std::int64_t>(batches.size()));
  }
  const auto num_rows = static_cast<double>(rows.size());
  Json out = {{prefix + "loss", detail::mean_loss(losses, batches, config.logging_nan_inf_filter)}};
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  out[prefix + "runtime"] = seconds;
  out[prefix + "samples_per_second"] = num_rows / seconds;
  out[prefix + "steps_per_second"] = static_cast<double>(batches.size()) / seconds;
  out.update(metrics.take(prefix, num_tokens));
  if (has_metrics) {
    const Json own = hooks.compute_metrics(predictions.take());
    check(own.is_object(), "compute_metrics returned ", own.dump(), ", expected an object of names and values");
    for (const auto& [name, value] : own.items()) out[prefix + name] = value;
  }
  if (hooks.samples && !config.prediction_loss_only) out[prefix + "samples"] = hooks.samples(rows);
  return out;
}

}  // namespace kto
