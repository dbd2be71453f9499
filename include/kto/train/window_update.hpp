// SPDX-License-Identifier: Apache-2.0
// One update from one window of micro-batches: backward passes, the check for non-finite values, then clipping and the
// optimizer step, or a skipped update and a lower loss scale.
#pragma once

#include <algorithm>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kto/nn/weight_grad.hpp"
#include "kto/train/attempt.hpp"
#include "kto/train/finite.hpp"
#include "kto/train/run.hpp"

namespace kto {

/// Call observe() and backward() for each micro-batch of the window that is this rank's, then finish() on all ranks.
class WindowUpdate {
 public:
  using Note = std::function<void(const std::string&)>;

  /// An update from the micro-batches of `window`, at the log's learning rate. `note` receives messages for the user.
  WindowUpdate(Run& run, const TrainConfig& config, const Share& share, const Window& window, Note note)
      : run_(run),
        config_(config),
        share_(share),
        note_(std::move(note)),
        num_metrics_(run.log.metrics.size()),
        counts_(run.counts()),
        num_steps_(window.step_rows.size()),
        num_turns_(share.num_turns(window.num_batches)) {
    in_place_.emplace();
    const auto is_small = [](const Batch& batch) { return batch.rows.num_tokens < CastOnce::enough_tokens; };
    const std::vector<Batch>& batches = window.batches;
    const bool on_device =
        !batches.empty() && !batches.front().rows.ids_N.is_cpu();  // where each cast is a kernel to start
    if (config.zero_stage < 3 && (on_device || std::ranges::all_of(batches, is_small)))
      casts_.emplace();  // no weight changes until it is gone
    run_.updates->begin(run_.log.learning_rate);
  }

  /// Records the losses of a micro-batch, which must not move.
  void observe(const Observation& seen) { losses_.push_back({&seen.batch, seen.terms.loss_B.detach()}); }

  /// The backward pass of that micro-batch's share of the window's mean loss.
  void backward(const Tensor& share) {
    run_.updates->backward(run_.scale.scaled(share), /*is_last=*/shares_.size() + 1 == num_turns_,
                           [this] { return !not_finite(losses_, run_.updates->grad_norm()); });
    shares_.push_back(share.detach());
  }

  /// Makes the update. If the loss or the gradient is not finite, skips it: drops the window's metrics and calls
  /// undo(). Throws Error if config does not allow skipped steps, and on all ranks if the `attempt` of one has failed.
  template <class Undo>
  void finish(const Attempt& attempt, const Undo& undo) {
    casts_.reset();
    in_place_.reset();
    if (attempt.has_failed()) run_.updates->end();  // memory for what follows
    run_.updates->complete();
    together(share_.world, [&] { attempt.check(); });
    const Tensor grad_norm = run_.updates->grad_norm() / run_.scale.value();
    ++run_.state.global_step;
    const auto problem = agreed(not_finite(losses_, grad_norm), share_.world);
    sum_window();
    const bool overflows = problem && !problem->is_loss && run_.scale.is_on();
    if (problem && !overflows) {
      undo();
      skip(problem->what);
    } else {
      run_.log.add_step(shares_, overflows ? Tensor() : grad_norm);
    }
    if (!problem) {
      const Tensor divisor = grad_divisor(grad_norm, run_.scale.value(), config_.max_grad_norm);
      run_.updates->finish({.learning_rate = run_.log.learning_rate, .grad_divisor = divisor});
    }
    run_.updates->end();
    if (run_.scale.is_on()) rescale(!problem, overflows);
  }

 private:
  /// Metrics, counts and the loss become those of all ranks' micro-batches.
  void sum_window() {
    run_.log.metrics.sum_steps(share_, num_metrics_, num_steps_);
    if (share_.world.alone()) return;
    run_.sum_counts(share_.world, counts_);
    double loss = 0;
    for (const Tensor& share : shares_) loss += share.to(at::kDouble).item<double>();
    shares_ = {at::scalar_tensor(share_.world.sum(loss), at::kDouble)};
  }

  void skip(const std::string& problem) {
    constexpr int most = 10;
    RunLog& log = run_.log;
    log.metrics.resize(num_metrics_);
    log.skip_step(shares_);
    const std::int64_t step = run_.state.global_step;
    check(config_.nonfinite_loss == NonFiniteLoss::skip, "step ", step, ": ", problem,
          "; this step changed no weight. Lower learning_rate, check those rows, or skip such steps with "
          "nonfinite_loss skip");
    check(log.num_skipped_in_a_row < most, "step ", step, ": ", problem, ", as in the ", most - 1,
          " steps before: the weights are damaged, or learning_rate is far too high");
    if (log.num_skipped_in_all() == 1)
      note_(concat("step ", step, ": ", problem,
                   "; the step is skipped. Later ones are not noted: see skipped_steps in the log"));
  }

  void rescale(bool is_finite, bool overflows) {
    LossScale& scale = run_.scale;
    if (overflows && scale.num_skipped() == 0)
      note_(concat("step ", run_.state.global_step, ": the gradient overflows float16 at a loss scale of ",
                   scale.value(), "; the step is skipped and the scale halved. Later ones are not ",
                   "noted: see loss_scale in the log"));
    scale.follow(is_finite, run_.state.global_step);
    run_.log.loss_scale = scale.value();
  }

  const Uninterrupted whole_;
  Run& run_;
  const TrainConfig& config_;
  const Share& share_;
  Note note_;
  std::size_t num_metrics_;  ///< of the log before this window
  Run::Counts counts_;       ///< likewise
  std::size_t num_steps_;    ///< micro-steps
  std::size_t num_turns_;    ///< micro-batches of rank 0, which has the most
  std::vector<BatchLoss> losses_;
  std::vector<Tensor> shares_;  ///< of the micro-batches in the mean loss, scalars
  std::optional<InPlaceGradients> in_place_;
  std::optional<CastOnce> casts_;
};

}  // namespace kto
