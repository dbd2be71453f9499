// SPDX-License-Identifier: Apache-2.0
// The forward side of a step: the reference first, for the whole window and without gradient, then the loss of one
// micro-batch. Weights and reduction are applied here and nowhere else.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "kto/collate/concept.hpp"
#include "kto/logprob/completion.hpp"
#include "kto/loss/concept.hpp"
#include "kto/reference/concept.hpp"
#include "kto/train/config.hpp"
#include "kto/train/feed/loader.hpp"
#include "kto/train/metrics.hpp"

namespace kto {

// Shapes: B examples of a micro-batch.

/// A micro-batch, with what is known before its forward pass with gradient.
struct PreparedBatch {
  Batch batch;
  Tensor reference_logp_B;
  Tensor reference_kl_logp_B;  ///< defined if the micro-batch computes its own baseline in its forward pass
  Tensor baseline;             ///< z0, a scalar >= 0; undefined if reference_kl_logp_B is defined
  double row_share = 0;        ///< what one row's weighted loss contributes to the window's mean
};

/// z0 = max(0, mean(log pi(y'|x) - log pi_ref(y'|x))) over mismatched pairs.
inline Tensor kl_baseline(const Tensor& policy_kl_logp_B, const Tensor& reference_kl_logp_B) {
  return (policy_kl_logp_B - reference_kl_logp_B).mean().clamp_min(0);
}

/// Evaluates the reference on a window, the micro-batches of one update. With KlScope::window also computes the
/// baseline z0: this needs the policy's KL log-probs of all micro-batches before any loss, so prompts are encoded
/// twice. With KlScope::micro_batch (as in TRL) each micro-batch computes its own baseline in its forward pass, where
/// KL pairs reuse the keys and values.
template <class Loss, class Model, class Reference>
std::vector<PreparedBatch> prepare_window(const Model& model, const Reference& reference, std::vector<Batch> batches,
                                          KlScope scope) {
  const at::NoGradGuard no_grad;
  const bool one_baseline = Loss::needs.kl_pairs && scope == KlScope::window && batches.size() > 1;
  std::vector<PreparedBatch> window;
  std::vector<Tensor> policy_kl, reference_kl;  // [B] each
  std::int64_t num_rows = 0;
  for (Batch& batch : batches) {
    if (one_baseline) batch.shared.reset();  // policy and reference must take the same path, or they differ by rounding
    ReferenceLogps reference_logps = reference.log_probs(model, batch);
    num_rows += batch.rows.num_rows;
    if (one_baseline) {
      policy_kl.push_back(score_completions(model, *batch.kl_rows).logp_B);
      reference_kl.push_back(std::exchange(reference_logps.kl_logp_B, {}));
    }
    window.push_back({.batch = std::move(batch),
                      .reference_logp_B = std::move(reference_logps.logp_B),
                      .reference_kl_logp_B = std::move(reference_logps.kl_logp_B),
                      .baseline = {},
                      .row_share = 0});
  }
  for (PreparedBatch& prepared : window) {
    if (one_baseline) prepared.baseline = kl_baseline(at::cat(policy_kl), at::cat(reference_kl));
    if (!Loss::needs.kl_pairs) prepared.baseline = at::zeros({}, prepared.reference_logp_B.options());
    prepared.row_share = scope == KlScope::window ? 1.0 / static_cast<double>(num_rows)
                                                  : 1.0 / static_cast<double>(prepared.batch.rows.num_rows) /
                                                        static_cast<double>(window.size());
  }
  return window;
}

/// The parts of one micro-batch's loss, for hooks.
struct Observation {
  const Batch& batch;
  const LossInput<Tensor>& input;
  const LossTerms<Tensor>& terms;
};

namespace detail {

template <class Loss>
void check_terms(const LossTerms<Tensor>& terms, const Batch& batch) {
  const std::int64_t rows = batch.rows.num_rows, losses = Loss::needs.chosen_rejected ? rows / 2 : rows;
  const auto check_shape = [](const char* name, const Tensor& got, std::int64_t expected) {
    check(got.defined() && got.sizes() == at::IntArrayRef({expected}), "the loss returned ", name, " of shape ",
          got.defined() ? shape_text(got.sizes()) : "(none)", ", expected [", expected, "]");
  };
  check_shape("loss_B", terms.loss_B, losses);
  check_shape("reward_B", terms.reward_B, rows);
}

}  // namespace detail

/// How much of the model's own loss is added: the option's coefficient, else the model's; 0 for a model without one.
template <class Model>
double auxiliary_coef(const Model& model, const TrainConfig& config) {
  if constexpr (GivesAuxiliary<Model>)
    if (const std::optional<double> usual = model.auxiliary_coef()) return config.router_aux_loss_coef.value_or(*usual);
  return 0;
}

/// This micro-batch's share of the window's mean loss, with gradient if grad mode is on. Adds its metrics to `metrics`
/// and passes its parts to `observe(Observation)`. Throws Error naming an output of the loss with an unexpected shape.
template <class Loss, class Model, class Observe>
Tensor micro_batch_loss(const Model& model, Loss& loss, const PreparedBatch& prepared, const TrainConfig& config,
                        MetricWindow& metrics, const Observe& observe) {
  const Batch& batch = prepared.batch;
  const bool makes_baseline = !prepared.baseline.defined();
  const double coef = auxiliary_coef(model, config);
  Trace trace;
  const auto [scores, kl_logp_B] =
      score_batch(model, batch, makes_baseline, /*statistics=*/true, coef != 0 ? &trace : nullptr);
  const Tensor baseline = makes_baseline ? kl_baseline(kl_logp_B, prepared.reference_kl_logp_B) : prepared.baseline;
  const LossInput<Tensor> input{.policy_logp_B = scores.logp_B,
                                .reference_logp_B = prepared.reference_logp_B,
                                .sign_B = batch.sign_B,
                                .length_B = scores.num_scored_B,
                                .baseline = baseline};
  if constexpr (Observes<Loss, Tensor>)
    if (at::GradMode::is_enabled()) loss.observe(input);
  const LossTerms<Tensor> terms = loss(input);
  detail::check_terms<std::remove_const_t<Loss>>(terms, batch);
  metrics.add(batch, scores, terms, baseline);
  observe(Observation{batch, input, terms});
  if constexpr (ReportsMetrics<Loss, Tensor>) metrics.add(loss.metrics(input, terms));
  const auto with_auxiliary = [&](const Tensor& share) {
    if (!trace.auxiliary.defined()) return share;
    metrics.add({{"aux_loss", trace.auxiliary}});
    return share + trace.auxiliary * (coef * prepared.row_share * static_cast<double>(batch.rows.num_rows));
  };
  if constexpr (Loss::needs.chosen_rejected) {
    metrics.add({{"rewards/accuracies", pair_accuracy(terms.reward_B)}});
    return with_auxiliary(terms.loss_B.sum() * (2 * prepared.row_share));
  }
  const auto weight = [&](double value) { return at::scalar_tensor(value, terms.loss_B.options()); };
  const Tensor weight_B =
      at::where(batch.sign_B > 0, weight(config.desirable_weight), weight(config.undesirable_weight));
  return with_auxiliary((weight_B * terms.loss_B).sum() * prepared.row_share);
}

}  // namespace kto
