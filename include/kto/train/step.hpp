// SPDX-License-Identifier: Apache-2.0
// The forward side of a step: the reference first, for the whole window and without gradient, then the loss of one
// micro-batch. Weights and reduction are applied here and nowhere else: over the rows of all ranks, so that the ranks'
// losses add up to the mean.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kto/collate/concept.hpp"
#include "kto/logprob/completion.hpp"
#include "kto/loss/concept.hpp"
#include "kto/reference/concept.hpp"
#include "kto/train/config.hpp"
#include "kto/train/feed/feed.hpp"
#include "kto/train/metrics.hpp"

namespace kto {

// Shapes: B examples of a micro-batch.

/// A micro-batch, with what is known before its forward pass with gradient.
struct PreparedBatch {
  Batch batch;
  ReferenceLogps reference;    ///< undefined: the policy's own; of KL pairs only where the forward pass makes z0
  Tensor baseline;             ///< z0, a scalar >= 0; undefined if the forward pass makes it
  double row_share = 0;        ///< what one row's weighted loss contributes to the window's mean
  Tensor kl_log_ratio_B = {};  ///< of the KL pairs, policy and reference, where the baseline is computed before
};

/// Whether a window's baselines are computed before its losses: there is one for all its micro-batches, or one for
/// each micro-step, of which this rank has several micro-batches. Otherwise they come with the forward passes.
template <class Loss>
bool prepares_baselines(const Window& window, KlScope scope, const Share& share) {
  return Loss::needs.kl_pairs && (scope == KlScope::window ? window.num_batches > 1 : !share.is_side_by_side());
}

/// z0 = max(0, mean(log pi(y'|x) - log pi_ref(y'|x))) over the mismatched pairs of `num_rows` rows on all ranks, those
/// of this one with `log_ratio_B`, which is undefined if it has none. All ranks call it, and all get the same.
inline Tensor kl_baseline(const Tensor& log_ratio_B, const World& world, std::int64_t num_rows) {
  if (world.alone()) return log_ratio_B.mean().clamp_min(0);
  const Tensor sum = at::zeros({1}, at::kDouble);
  if (log_ratio_B.defined()) sum.copy_(log_ratio_B.sum());
  world.all_reduce(sum).wait();
  const Tensor baseline = (sum / static_cast<double>(num_rows)).reshape({}).clamp_min(0);
  return log_ratio_B.defined() ? baseline.to(log_ratio_B.options()) : baseline;
}

/// Evaluates the reference on this rank's part of a window, whose batches it takes. If `with_baseline`, also evaluates
/// the policy on the KL pairs of all micro-batches, before any loss, so prompts are encoded twice; share_baselines comes
/// next. Otherwise (as in TRL) each micro-batch computes the KL pairs in its forward pass, where they reuse the keys and
/// values. A reference that `is_policy` is not asked.
template <class Loss, class Model, class Reference>
std::vector<PreparedBatch> prepare_window(const Model& model, const Reference& reference, Window& window, KlScope scope,
                                          const Share& share, bool with_baseline, bool is_policy = false) {
  const at::NoGradGuard no_grad;
  const auto num_rows = static_cast<double>(window.num_rows()),
             num_steps = static_cast<double>(window.step_rows.size());
  std::vector<PreparedBatch> out;
  for (Batch& batch : window.batches) {
    const auto step_rows = static_cast<double>(window.step_rows[share.step(out.size())]);
    if (with_baseline) batch.shared.reset();  // policy and reference must take the same path, or differ by rounding
    ReferenceLogps logps = is_policy ? ReferenceLogps{} : reference.log_probs(model, batch);
    PreparedBatch prepared{.batch = std::move(batch),
                           .reference = std::move(logps),
                           .baseline = {},
                           .row_share = scope == KlScope::window ? 1.0 / num_rows : 1.0 / step_rows / num_steps};
    if (with_baseline)
      prepared.kl_log_ratio_B =
          score_completions(model, *prepared.batch.kl_rows).logp_B - std::exchange(prepared.reference.kl_logp_B, {});
    if (!Loss::needs.kl_pairs) prepared.baseline = at::zeros({}, prepared.batch.sign_B.options());
    out.push_back(std::move(prepared));
  }
  window.batches.clear();
  return out;
}

/// Gives each micro-batch its baseline: that of the window, or of its micro-step. All ranks call it.
inline void share_baselines(std::span<PreparedBatch> batches, const Window& window, KlScope scope, const Share& share) {
  const bool one = scope == KlScope::window;
  if (share.world.alone() && batches.empty()) return;  // the pass failed
  for (std::size_t step = 0; step < (one ? 1 : window.step_rows.size()); ++step) {
    std::vector<Tensor> ratios;
    for (std::size_t i = 0; i < batches.size(); ++i)
      if (one || share.step(i) == step) ratios.push_back(batches[i].kl_log_ratio_B);
    const Tensor baseline = kl_baseline(ratios.empty() ? Tensor() : at::cat(ratios), share.world,
                                        one ? window.num_rows() : window.step_rows[step]);
    for (std::size_t i = 0; i < batches.size(); ++i)
      if (one || share.step(i) == step) batches[i].baseline = baseline;
  }
}

/// Whether `loss` observes rows; of a loss that is one of several, the one it is.
template <class Loss>
bool observes_rows(const Loss& loss) {
  if constexpr (requires { loss.visit_chosen([](const auto&) { return true; }); })
    return loss.visit_chosen([]<class One>(const One&) { return Observes<One, Tensor>; });
  else
    return Observes<Loss, Tensor>;
}

/// What the ranks compute together while each has one micro-batch. A rank that has none, or failed before it came so
/// far, joins the others with leave().
class Turn {
 public:
  /// A turn with `num_rows` rows on all ranks, in which `loss` may need a baseline and, in training, all rows.
  template <class Loss>
  Turn(const World& world, const Loss& loss, std::int64_t num_rows, bool needs_baseline)
      : world_(world),
        num_rows_(num_rows),
        gathers_(!world.alone() && at::GradMode::is_enabled() && observes_rows(loss)),
        needs_baseline_(!world.alone() && needs_baseline) {}

  Tensor baseline(const Tensor& log_ratio_B) {
    needs_baseline_ = false;
    return baseline_ = kl_baseline(log_ratio_B, world_, num_rows_);
  }

  /// `input` with the rows of all ranks, without gradient.
  LossInput<Tensor> all_rows(const LossInput<Tensor>& input) {
    if (!std::exchange(gathers_, false)) return input;
    const Tensor own_4B =
        at::stack({input.policy_logp_B.detach(), input.reference_logp_B, input.sign_B, input.length_B})
            .to(at::kCPU, at::kDouble);
    return input_of(gather(own_4B).to(input.policy_logp_B.device()), input.baseline);
  }

  template <class Loss>
  void leave(Loss& loss) {
    if (needs_baseline_) (void)baseline({});
    if constexpr (Observes<Loss, Tensor>)  // what the loss keeps is the same on all ranks
      if (std::exchange(gathers_, false))
        loss.observe(input_of(gather(at::empty({4, 0}, at::kDouble)),
                              baseline_.defined() ? baseline_ : at::zeros({}, at::kDouble)));
  }

 private:
  static LossInput<Tensor> input_of(const Tensor& rows_4B, const Tensor& baseline) {
    return {.policy_logp_B = rows_4B[0],
            .reference_logp_B = rows_4B[1],
            .sign_B = rows_4B[2],
            .length_B = rows_4B[3],
            .baseline = baseline};
  }
  Tensor gather(const Tensor& own_4B) const {
    std::vector<Tensor> parts;
    for (const Tensor& rows : world_.gather(own_4B)) parts.push_back(rows.view({4, rows.numel() / 4}));
    return at::cat(parts, 1);
  }

  const World& world_;
  std::int64_t num_rows_;
  bool gathers_, needs_baseline_;
  Tensor baseline_ = {};
};

/// The parts of one micro-batch's loss, for hooks.
struct Observation {
  const Batch& batch;
  const LossInput<Tensor>& input;
  const LossTerms<Tensor>& terms;
  const Tensor& kl_logp_B;  ///< the policy's, of the KL pairs; undefined if this pass did not compute them
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
                        Turn& turn, MetricWindow& metrics, const Observe& observe) {
  const Batch& batch = prepared.batch;
  const bool makes_baseline = !prepared.baseline.defined();
  const double coef = auxiliary_coef(model, config);
  Trace trace;
  const auto [scores, kl_logp_B] =
      score_batch(model, batch, makes_baseline, /*statistics=*/true, coef != 0 ? &trace : nullptr);
  const auto of_reference = [](const Tensor& its, const Tensor& policys) {
    return its.defined() ? its : policys.detach();
  };
  const Tensor baseline = makes_baseline
                              ? turn.baseline(kl_logp_B - of_reference(prepared.reference.kl_logp_B, kl_logp_B))
                              : prepared.baseline;
  const LossInput<Tensor> input{.policy_logp_B = scores.logp_B,
                                .reference_logp_B = of_reference(prepared.reference.logp_B, scores.logp_B),
                                .sign_B = batch.sign_B,
                                .length_B = scores.num_scored_B,
                                .baseline = baseline};
  if constexpr (Observes<Loss, Tensor>)
    if (at::GradMode::is_enabled()) loss.observe(turn.all_rows(input));
  const LossTerms<Tensor> terms = loss(input);
  detail::check_terms<std::remove_const_t<Loss>>(terms, batch);
  metrics.add(batch, scores, terms, baseline);
  observe(Observation{batch, input, terms, kl_logp_B});
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
