// SPDX-License-Identifier: Apache-2.0
// The forward side of a step: KL baselines first, for the whole window and without gradient, then the loss of one
// micro-batch. Weights and reduction are applied here and nowhere else.
#pragma once

#include <vector>

#include "kto/collate/concept.hpp"
#include "kto/logprob/completion.hpp"
#include "kto/loss/concept.hpp"
#include "kto/reference/concept.hpp"
#include "kto/train/config.hpp"
#include "kto/train/metrics.hpp"

namespace kto {

// Shapes: B examples of a micro-batch.

/// A micro-batch with what is known before its forward pass with gradient.
struct PreparedBatch {
  Batch batch;
  Tensor reference_logp_B;
  Tensor baseline;       ///< z0 without dimensions, >= 0
  double row_share = 0;  ///< what one row's weighted loss contributes to the window's mean
};

/// Asks the reference, and makes z0 = max(0, mean(log pi(y'|x) - log pi_ref(y'|x))) over the mismatched pairs of each
/// micro-batch (KlScope::micro_batch, TRL's way) or of the window. A window is the micro-batches of one update.
template <class Loss, class Model, class Reference>
std::vector<PreparedBatch> prepare_window(const Model& model, const Reference& reference, std::vector<Batch> batches,
                                          KlScope scope) {
  const at::NoGradGuard no_grad;
  std::vector<PreparedBatch> window;
  std::vector<Tensor> kl;  // [B] each
  std::int64_t num_rows = 0;
  for (Batch& batch : batches) {
    ReferenceLogps reference_logps = reference.log_probs(model, batch);
    const Tensor kl_B = Loss::needs.kl_pairs
                            ? score_completions(model, *batch.kl_rows).logp_B - reference_logps.kl_logp_B
                            : at::zeros({1}, reference_logps.logp_B.options());
    num_rows += batch.rows.num_rows;
    kl.push_back(kl_B);
    window.push_back({.batch = std::move(batch),
                      .reference_logp_B = std::move(reference_logps.logp_B),
                      .baseline = kl_B.mean().clamp_min(0),
                      .row_share = 0});
  }
  const Tensor window_baseline = at::cat(kl).mean().clamp_min(0);
  for (PreparedBatch& prepared : window) {
    if (scope == KlScope::window) prepared.baseline = window_baseline;
    prepared.row_share = scope == KlScope::window ? 1.0 / static_cast<double>(num_rows)
                                                  : 1.0 / static_cast<double>(prepared.batch.rows.num_rows) /
                                                        static_cast<double>(window.size());
  }
  return window;
}

/// The part of the window's mean loss that this micro-batch contributes, with gradient where grad mode is on, and its
/// metrics added to `metrics`. Throws Error, naming the loss's output, when that has an unexpected shape.
template <class Loss, class Model>
Tensor micro_batch_loss(const Model& model, const Loss& loss, const PreparedBatch& prepared, const TrainConfig& config,
                        MetricWindow& metrics) {
  const Batch& batch = prepared.batch;
  const CompletionScores scores = score_completions(model, batch.rows, /*statistics=*/true);
  const LossInput<Tensor> input{.policy_logp_B = scores.logp_B,
                                .reference_logp_B = prepared.reference_logp_B,
                                .sign_B = batch.sign_B,
                                .baseline = prepared.baseline};
  const LossTerms<Tensor> terms = loss(input);
  check(terms.loss_B.sizes() == batch.sign_B.sizes() && terms.reward_B.sizes() == batch.sign_B.sizes(),
        "the loss returned loss_B of shape ", shape_text(terms.loss_B.sizes()), " and reward_B of shape ",
        shape_text(terms.reward_B.sizes()), ", expected ", shape_text(batch.sign_B.sizes()), " for both");
  metrics.add(batch, scores, terms, prepared.baseline);
  const Tensor weight_B = at::where(batch.sign_B > 0, config.desirable_weight, config.undesirable_weight);
  return (weight_B.to(terms.loss_B.scalar_type()) * terms.loss_B).sum() * prepared.row_share;
}

}  // namespace kto
