// SPDX-License-Identifier: Apache-2.0
// The number of steps of a run, counted as in transformers' Trainer.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>

#include "kto/core/error.hpp"
#include "kto/train/config.hpp"

namespace kto {

struct Plan {
  std::int64_t batches_per_epoch = 0;  ///< micro-batches, of all ranks
  std::int64_t steps_per_epoch = 0;    ///< optimizer updates
  std::int64_t num_steps = 0;
  std::int64_t num_epochs = 0;  ///< started; the last one may be incomplete
  std::int64_t num_warmup_steps = 0;
  std::int64_t logging_steps = 0;  ///< 0: never by steps
  std::int64_t eval_steps = 0;     ///< 0: never by steps
  std::int64_t save_steps = 0;     ///< 0: never by steps
};

namespace detail {

/// A number of steps, or below 1 a fraction of the whole run.
inline std::int64_t resolve_steps(double steps, std::int64_t num_steps) {
  return static_cast<std::int64_t>(steps < 1 ? std::ceil(static_cast<double>(num_steps) * steps) : steps);
}

}  // namespace detail

/// Throws Error if `num_rows` rows do not make a batch. `num_batches` gives the number of micro-batches of an epoch if
/// their sizes vary (max_tokens_per_batch); Plan then describes the first epoch.
/// `step_size` micro-batches are a micro-step.
inline Plan make_plan(const TrainConfig& config, std::int64_t num_rows,
                      const std::function<std::int64_t(std::int64_t epoch)>& num_batches = {},
                      std::int64_t step_size = 1) {
  Plan plan;
  const std::int64_t batch = config.per_device_train_batch_size;
  plan.batches_per_epoch = num_batches                   ? num_batches(0)
                           : config.dataloader_drop_last ? num_rows / (batch * step_size) * step_size
                                                         : (num_rows + batch - 1) / batch;
  check(plan.batches_per_epoch > 0, "no batch to train on: ", num_rows, " rows, batches of ", batch,
        step_size > 1 ? concat(" on each of ", step_size, " processes") : "",
        config.dataloader_drop_last ? ", and dataloader_drop_last drops a short one" : "");
  const std::int64_t accumulate = config.gradient_accumulation_steps;
  const auto steps_of = [&](std::int64_t batches) { return (batches + accumulate - 1) / accumulate; };
  plan.steps_per_epoch = steps_of(plan.batches_per_epoch);
  const auto per_epoch = static_cast<double>(plan.steps_per_epoch);
  if (num_batches) {
    const double epochs = config.max_steps > 0 ? 1e18 : config.num_train_epochs;
    const auto steps_left = [&] { return config.max_steps > 0 ? config.max_steps - plan.num_steps : std::int64_t{1}; };
    for (; static_cast<double>(plan.num_epochs) < epochs && steps_left() > 0; ++plan.num_epochs) {
      const double share = std::min(1.0, epochs - static_cast<double>(plan.num_epochs));
      plan.num_steps +=
          static_cast<std::int64_t>(std::ceil(share * static_cast<double>(steps_of(num_batches(plan.num_epochs)))));
    }
    if (config.max_steps > 0) plan.num_steps = config.max_steps;
  } else if (config.max_steps > 0) {
    plan.num_steps = config.max_steps;
    plan.num_epochs = (plan.num_steps + plan.steps_per_epoch - 1) / plan.steps_per_epoch;
  } else {
    plan.num_steps = static_cast<std::int64_t>(std::ceil(config.num_train_epochs * per_epoch));
    plan.num_epochs = static_cast<std::int64_t>(std::ceil(config.num_train_epochs));
  }
  plan.num_warmup_steps =
      config.warmup_steps >= 1
          ? static_cast<std::int64_t>(config.warmup_steps)
          : static_cast<std::int64_t>(std::ceil(static_cast<double>(plan.num_steps) *
                                                (config.warmup_steps > 0 ? config.warmup_steps : config.warmup_ratio)));
  if (config.logging_strategy == IntervalStrategy::steps)
    plan.logging_steps = detail::resolve_steps(config.logging_steps, plan.num_steps);
  if (config.eval_strategy == IntervalStrategy::steps)
    plan.eval_steps = detail::resolve_steps(config.eval_steps.value_or(config.logging_steps), plan.num_steps);
  if (config.save_strategy == SaveStrategy::steps)
    plan.save_steps = detail::resolve_steps(config.save_steps, plan.num_steps);
  return plan;
}

}  // namespace kto
