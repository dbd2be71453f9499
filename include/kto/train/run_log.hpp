// SPDX-License-Identifier: Apache-2.0
// Collects the numbers of a run between two log entries, and makes the entries.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include "kto/train/callbacks.hpp"
#include "kto/train/metrics.hpp"

namespace kto {

class RunLog {
 public:
  /// `filter`: exclude the losses of skipped steps; otherwise they count, and show if they are not finite.
  explicit RunLog(bool filter = true) : filter_(filter) {}

  MetricWindow metrics = {};
  Tensor grad_norm = {};  ///< of the last step, before clipping
  double learning_rate = 0;
  std::optional<double> loss_scale = std::nullopt;  ///< with fp16 (LossScale)
  std::int64_t num_input_tokens = 0;                ///< as include_num_input_tokens_seen counts

  /// Adds a step's loss, as the shares of its micro-batches, and the norm of its gradient before clipping, undefined if
  /// it overflowed.
  void add_step(const std::vector<Tensor>& shares, const Tensor& norm) {
    add_loss(shares);
    if (norm.defined()) grad_norm = norm;
    num_skipped_in_a_row = 0;
  }
  /// Adds a skipped step.
  void skip_step(const std::vector<Tensor>& shares) {
    if (!filter_) add_loss(shares);
    ++num_skipped_;
    ++num_skipped_in_all_;
    ++num_skipped_in_a_row;
  }
  std::int64_t num_skipped_in_all() const { return num_skipped_in_all_; }
  int num_skipped_in_a_row = 0;

  /// The log entry for the steps since the last one. Throws Error if the loss is not finite.
  Json take(const TrainerState& state) {
    const double loss_sum = take_loss();
    check(std::isfinite(loss_sum) || (!filter_ && num_skipped_ > 0), "the loss is not finite: step ", state.global_step,
          " or one since the last log entry; lower learning_rate, or check the rows of those steps");
    const std::int64_t num_steps = state.global_step - last_step_, num_updates = num_steps - num_skipped_;
    Json entry = Json::object();
    if (num_losses_ > 0) entry["loss"] = loss_sum / static_cast<double>(num_losses_);
    if (num_updates > 0 && grad_norm.defined()) entry["grad_norm"] = grad_norm.item<double>();
    entry["learning_rate"] = learning_rate;
    if (loss_scale) entry["loss_scale"] = *loss_scale;
    if (num_updates > 0) entry.update(metrics.take("", state.num_tokens));
    if (num_skipped_ > 0) entry["skipped_steps"] = num_skipped_;
    if (num_input_tokens > 0) {
      const double run_time = seconds();
      entry["train_runtime"] = run_time;
      entry["train_tokens_per_second"] = static_cast<double>(num_input_tokens) / run_time;
    }
    last_step_ = state.global_step;
    num_skipped_ = num_losses_ = 0;
    return entry;
  }

  /// The closing entry: run time, rates, mean loss, and the metrics of the steps since the last entry (as in TRL, not
  /// if the last entry is an evaluation). `num_samples` rows were visited.
  Json finish(TrainerState& state, double num_samples) {
    take_loss();
    const auto steps = static_cast<double>(state.global_step);
    state.train_runtime = seconds();
    state.train_loss = total_loss_ / std::max(1.0, static_cast<double>(num_losses_in_all_));
    Json entry = {{"train_runtime", state.train_runtime},
                  {"train_samples_per_second", num_samples / state.train_runtime},
                  {"train_steps_per_second", steps / state.train_runtime},
                  {"total_flos", state.total_flos},
                  {"train_loss", state.train_loss}};
    const Json& history = state.log_history;
    const auto is_metric = [](const auto& item) { return item.key().starts_with("eval_"); };
    const bool evaluated = !history.empty() && history.back().value("step", Json()) == state.global_step &&
                           std::ranges::any_of(history.back().items(), is_metric);
    if (metrics.size() > 0 && !evaluated) entry.update(metrics.take("", state.num_tokens));
    return entry;
  }

  template <class Archive>
  void visit_state(Archive& archive) {
    double run_time = seconds();
    archive("metrics", metrics);
    archive("grad_norm", grad_norm);
    archive("learning_rate", learning_rate);
    archive("num_input_tokens", num_input_tokens);
    archive("loss_sum", loss_sum_);
    archive("total_loss", total_loss_);
    archive("last_step", last_step_);
    archive("num_losses", num_losses_);
    archive("num_losses_in_all", num_losses_in_all_);
    archive("num_skipped", num_skipped_);
    archive("num_skipped_in_a_row", num_skipped_in_a_row);
    archive("num_skipped_in_all", num_skipped_in_all_);
    archive("seconds", run_time);
    earlier_seconds_ += run_time - seconds();
  }

 private:
  double seconds() const {
    return earlier_seconds_ + std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  void add_loss(const std::vector<Tensor>& shares) {
    for (const Tensor& share : shares) loss_sum_ = loss_sum_.defined() ? loss_sum_ + share : share;
    ++num_losses_;
    ++num_losses_in_all_;
  }
  double take_loss() {
    if (!loss_sum_.defined()) return 0;
    const double sum = loss_sum_.item<double>();
    loss_sum_ = Tensor();
    total_loss_ += sum;
    return sum;
  }

  bool filter_;
  Tensor loss_sum_ = {};
  double total_loss_ = 0;
  std::int64_t last_step_ = 0;
  std::int64_t num_losses_ = 0, num_losses_in_all_ = 0;  ///< steps whose loss counts
  std::int64_t num_skipped_ = 0, num_skipped_in_all_ = 0;
  double earlier_seconds_ = 0;  ///< before the run was resumed
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace kto
