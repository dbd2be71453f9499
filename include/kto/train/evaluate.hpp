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
#include "kto/train/attempt.hpp"
#include "kto/train/callbacks.hpp"
#include "kto/train/feed/feed.hpp"
#include "kto/train/feed/prefetch.hpp"
#include "kto/train/kept_logps.hpp"
#include "kto/train/step.hpp"

namespace kto {

// Shapes: B all rows of the evaluation, C their scored tokens, V vocabulary.

/// The argument of compute_metrics, on the CPU.
struct EvalPrediction {
  Tensor policy_logp_B;     ///< [B] float64, nats
  Tensor reference_logp_B;  ///< likewise
  Tensor reward_B;          ///< [B] of the loss
  Tensor label_B;           ///< [B] bool, true for desirable (chosen)
  Tensor predictions;       ///< results of preprocess_logits_for_metrics, concatenated; undefined without it
  Tensor target_C;          ///< [C] int64, ids of the scored tokens
  Tensor row_C;             ///< [C] int64, the row (0..B-1) of each
};

/// Metrics of your own.
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
    keep(row_, seen.batch.rows.row_C);
    if (hooks.preprocess_logits_for_metrics)
      keep(predictions_,
           hooks.preprocess_logits_for_metrics(completion_logits(model, seen.batch.rows), seen.batch.rows.target_C));
  }
  /// What all ranks have added, in the order of the rows.
  EvalPrediction take(const World& world) {
    if (!world.alone())
      for (auto* list : {&policy_, &reference_, &reward_, &label_, &target_, &row_, &predictions_})
        *list = of_all_ranks(*list, world);
    std::int64_t before = 0;  // rows of the batches before
    for (std::size_t i = 0; i < row_.size(); before += policy_[i++].numel()) row_[i] += before;
    return {at::cat(policy_),
            at::cat(reference_),
            at::cat(reward_),
            at::cat(label_),
            predictions_.empty() ? Tensor() : at::cat(predictions_),
            at::cat(target_),
            at::cat(row_)};
  }

 private:
  /// The batches' tensors of all ranks, in the order of the batches.
  static std::vector<Tensor> of_all_ranks(const std::vector<Tensor>& own, const World& world) {
    Json parts = Json::array();
    for (const Tensor& tensor : own) {
      const Tensor whole = tensor.contiguous();
      const auto* bytes = static_cast<const std::uint8_t*>(whole.const_data_ptr());
      parts.push_back({{"type", static_cast<int>(whole.scalar_type())},
                       {"sizes", whole.sizes().vec()},
                       {"values", Json::binary({bytes, bytes + whole.nbytes()})}});
    }
    const std::vector<std::uint8_t> text = Json::to_cbor(parts);
    std::vector<Json> all;
    for (const std::string& theirs : world.gather(std::string(text.begin(), text.end())))
      all.push_back(Json::from_cbor(theirs));
    std::vector<Tensor> out;
    for (std::size_t i = 0; i < all.front().size(); ++i)
      for (Json& theirs : all) {
        if (i >= theirs.size()) continue;
        auto& bytes = theirs[i]["values"].get_binary();
        out.push_back(at::from_blob(bytes.data(), theirs[i]["sizes"].get<std::vector<std::int64_t>>(),
                                    static_cast<at::ScalarType>(theirs[i]["type"].get<int>()))
                          .clone());
      }
    return out;
  }

  std::vector<Tensor> policy_, reference_, reward_, label_, predictions_, target_, row_;
};

/// Whether work that the ranks share ends before its next micro-step: one of them has failed, or was asked to stop.
inline bool ends_early(Attempt& attempt, const World& world) {
  attempt([] { check_interrupt(); });
  return world.any(attempt.has_failed());
}

/// The mean loss of each of `num_steps` micro-steps, from the ranks' shares of it.
inline Tensor step_losses(const std::vector<Tensor>& own, std::size_t num_steps, const World& world) {
  if (world.alone()) return at::stack(own);
  const Tensor out = at::zeros({static_cast<std::int64_t>(num_steps)}, at::kDouble);
  if (!own.empty()) out.narrow(0, 0, std::ssize(own)).copy_(at::stack(own));
  world.all_reduce(out).wait();
  return out;
}

/// Rank 0's `object`. Unlike text, it keeps NaN.
inline Json of_first(const Json& object, const World& world) {
  const std::vector<std::uint8_t> bytes = Json::to_cbor(object);
  return Json::from_cbor(world.broadcast(std::string(bytes.begin(), bytes.end())));
}

/// The mean of the batches' mean losses, weighted by their `rows`. With `filter`, only over finite batches, if there are
/// any.
inline double mean_loss(const Tensor& mean_of_batch, std::span<const std::int64_t> rows_of_batch, bool filter) {
  const Tensor means = mean_of_batch.to(at::kCPU, at::kDouble);
  const auto mean = means.accessor<double, 1>();
  const bool left_out = filter && at::isfinite(means).any().item<bool>();
  double sum = 0, num_rows = 0;
  for (std::size_t i = 0; i < rows_of_batch.size(); ++i) {
    const double value = mean[static_cast<std::int64_t>(i)], rows = static_cast<double>(rows_of_batch[i]);
    if (left_out && !std::isfinite(value)) continue;
    sum += value * rows;
    num_rows += rows;
  }
  return sum / num_rows;
}

}  // namespace detail

/// Mean loss and metrics over `rows` under transformers' names: `prefix` + loss, runtime, ..., kl, rewards/chosen, ...
/// `num_tokens` is the run's count so far. The ranks of `world` share the rows as they share those of training; all
/// return the same, and hooks and callbacks are rank 0's. A reference that `is_policy` (until the first update) is not
/// asked: it is given the policy's log-probs to keep. Throws Error when there are no rows, and Interrupted between batches.
template <class Model, class Collator, class Loss, class Reference>
Json evaluate(const Model& model, const Collator& collator, Loss& loss, const Reference& reference,
              const TrainConfig& config, std::span<const Example> rows, const std::string& prefix = "eval_",
              std::int64_t num_tokens = 0, const EvaluationHooks& hooks = {}, const Callbacks& callbacks = {},
              const World& world = {}, bool is_policy = false) {
  check(!rows.empty(), "no rows to evaluate on");
  const at::NoGradGuard no_grad;
  const auto start = std::chrono::steady_clock::now();
  const Share share{world};
  std::vector<Picks> batches =
      eval_picks(rows, of_all_ranks(config, world), Loss::needs.chosen_rejected, share.step_size);
  Window all;  // only the sizes
  std::vector<Picks> own;
  for (Picks& picks : batches) {
    const bool is_own = share.is_own(all.num_batches);
    all.count(picks.size(), share);
    if (is_own) own.push_back(std::move(picks));
  }
  BatchSource source(collator, own, Loss::needs.kl_pairs, config.dataloader_num_workers,
                     config.dataloader_prefetch_factor.value_or(2));
  const at::Device device = device_of(model);
  const bool has_metrics = hooks.compute_metrics && !config.prediction_loss_only;
  const std::size_t num_steps = all.step_rows.size();
  MetricWindow metrics;
  detail::Predictions predictions;
  std::vector<Tensor> losses;  // scalars, one per batch
  Attempt attempt;
  for (std::size_t i = 0; i < num_steps && !detail::ends_early(attempt, world); ++i) {
    Turn turn(world, loss, all.step_rows[i], Loss::needs.kl_pairs);
    attempt([&] {
      if (i >= own.size()) return;
      Window single{.batches = {}, .step_rows = {all.step_rows[i]}, .num_batches = share.step_size};
      single.batches.push_back(to_device(source.next(), device));
      const auto window = prepare_window<Loss>(model, reference, single, KlScope::micro_batch, share,
                                               /*with_baseline=*/false, is_policy);
      const auto observe = [&](const Observation& seen) {
        if (is_policy) keep_logps(reference, seen.batch, {seen.input.reference_logp_B, seen.kl_logp_B});
        if (has_metrics) predictions.add(model, hooks, seen);
      };
      losses.push_back(micro_batch_loss(model, loss, window[0], config, turn, metrics, observe));
      if (world.is_first())
        detail::call(callbacks, &Callback::on_evaluate_batch, static_cast<std::int64_t>(i + 1),
                     static_cast<std::int64_t>(num_steps));
    });
    turn.leave(loss);
  }
  together(world, [&] { attempt.check(); });
  metrics.sum_steps(share, 0, num_steps);
  const auto num_rows = static_cast<double>(rows.size());
  Json out = {{prefix + "loss", detail::mean_loss(detail::step_losses(losses, num_steps, world), all.step_rows,
                                                  config.logging_nan_inf_filter)}};
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  out[prefix + "runtime"] = seconds;
  out[prefix + "samples_per_second"] = num_rows / seconds;
  out[prefix + "steps_per_second"] = static_cast<double>(num_steps) / seconds;
  out.update(metrics.take(prefix, num_tokens));
  const EvalPrediction prediction = has_metrics ? predictions.take(world) : EvalPrediction{};
  on_first(world, [&] {
    if (has_metrics) {
      const Json named = hooks.compute_metrics(prediction);
      check(named.is_object(), "compute_metrics returned ", named.dump(), ", expected an object of names and values");
      for (const auto& [name, value] : named.items()) out[prefix + name] = value;
    }
    if (hooks.samples && !config.prediction_loss_only) out[prefix + "samples"] = hooks.samples(rows);
  });
  return world.alone() ? out : detail::of_first(out, world);
}

}  // namespace kto
