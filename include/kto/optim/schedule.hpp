// SPDX-License-Identifier: Apache-2.0
// Learning-rate schedules: the factor on the peak rate at a step, as transformers' get_scheduler computes it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace kto {

enum class LrSchedulerType { linear, cosine, constant, constant_with_warmup };

struct Schedule {
  LrSchedulerType type = LrSchedulerType::linear;
  std::int64_t num_warmup_steps = 0;
  std::int64_t num_steps = 1;

  /// The factor for update number `step`, counted from 0.
  double operator()(std::int64_t step) const {
    const auto at = static_cast<double>(step);
    const auto warmup = static_cast<double>(num_warmup_steps);
    const double after = std::max(1.0, static_cast<double>(num_steps - num_warmup_steps));
    if (type == LrSchedulerType::constant) return 1;
    if (step < num_warmup_steps) return at / std::max(1.0, warmup);
    switch (type) {
      case LrSchedulerType::linear:
        return std::max(0.0, (static_cast<double>(num_steps) - at) / after);
      case LrSchedulerType::cosine:
        return std::max(0.0, 0.5 * (1 + std::cos(std::numbers::pi * (at - warmup) / after)));
      case LrSchedulerType::constant:
      case LrSchedulerType::constant_with_warmup:
        break;
    }
    return 1;
  }
};

}  // namespace kto
