// SPDX-License-Identifier: Apache-2.0
// What a run gathers between two log entries, and the entries it makes of it.
#pragma once

#include <chrono>
#include <cmath>

#include "kto/train/callbacks.hpp"
#include "kto/train/metrics.hpp"

namespace kto {

class RunLog {
 public:
  MetricWindow metrics = {};
  Tensor grad_norm = {};  ///< of the last step, before clipping
  double learning_rate = 0;

  void add_loss(const Tensor& share) { loss_sum_ = loss_sum_.defined() ? loss_sum_ + share.detach() : share.detach(); }

  /// A log entry on the steps since the last one. The one place in a run that waits for the device. Throws Error when
  /// the loss is not finite.
  Json take(const TrainerState& state) {
    const double loss_sum = take_loss();
    check(std::isfinite(loss_sum), "the loss is not finite: step ", state.global_step,
          " or one since the last log entry; lower learning_rate, or look at the rows of those steps");
    Json entry = {{"loss", loss_sum / static_cast<double>(state.global_step - last_step_)},
                  {"grad_norm", grad_norm.item<double>()},
                  {"learning_rate", learning_rate}};
    entry.update(metrics.take("", state.num_tokens));
    last_step_ = state.global_step;
    return entry;
  }

  /// The closing entry: run time, rates, mean loss. `num_samples` rows were visited.
  Json finish(TrainerState& state, double num_samples) {
    take_loss();
    const auto steps = static_cast<double>(state.global_step);
    state.train_runtime = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    state.train_loss = total_loss_ / std::max(1.0, steps);
    return {{"train_runtime", state.train_runtime},
            {"train_samples_per_second", num_samples / state.train_runtime},
            {"train_steps_per_second", steps / state.train_runtime},
            {"train_loss", state.train_loss}};
  }

 private:
  double take_loss() {
    if (!loss_sum_.defined()) return 0;
    const double sum = loss_sum_.item<double>();
    loss_sum_ = Tensor();
    total_loss_ += sum;
    return sum;
  }

  Tensor loss_sum_ = {};
  double total_loss_ = 0;
  std::int64_t last_step_ = 0;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace kto
