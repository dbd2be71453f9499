// SPDX-License-Identifier: Apache-2.0
// Learning-rate schedules: the factor on the peak rate at a step, as in transformers' get_scheduler. Schedules that
// follow the evaluations instead are in kto/optim/plateau.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <optional>

namespace kto {

enum class LrSchedulerType {
  linear,
  cosine,
  cosine_with_restarts,
  polynomial,
  constant,
  constant_with_warmup,
  inverse_sqrt,
  reduce_lr_on_plateau,
  cosine_with_min_lr,
  cosine_warmup_with_min_lr,
  warmup_stable_decay,
  greedy
};

/// Whether the rate follows the evaluations (kto/optim/plateau.hpp) instead of the step.
inline bool follows_evaluations(LrSchedulerType type) {
  return type == LrSchedulerType::reduce_lr_on_plateau || type == LrSchedulerType::greedy;
}

/// Whether the schedule supports a warm-up.
inline bool has_warmup(LrSchedulerType type) { return type != LrSchedulerType::constant && !follows_evaluations(type); }

/// The shape of a warm-up or decay: "linear", "cosine", "1-sqrt".
enum class RampType { linear, cosine, one_minus_sqrt };

/// Further parameters of some schedules. Rates are relative to the peak.
struct ScheduleShape {
  std::optional<double> num_cycles = std::nullopt;  ///< cosine types; default 0.5 (with restarts: 1)
  double power = 1;                                 ///< polynomial
  double end = 0;                                   ///< polynomial: the final rate
  double floor = 0;  ///< cosine_with_min_lr, cosine_warmup_with_min_lr, wsd: the minimum rate
  std::optional<double> warmup_start = std::nullopt;            ///< cosine_warmup_with_min_lr: the first rate
  std::optional<std::int64_t> timescale = std::nullopt;         ///< inverse_sqrt; default num_warmup_steps, or 10000
  std::int64_t num_decay_steps = 0;                             ///< warmup_stable_decay
  std::optional<std::int64_t> num_stable_steps = std::nullopt;  ///< warmup_stable_decay; default: the rest
  RampType warmup_type = RampType::linear;                      ///< warmup_stable_decay
  RampType decay_type = RampType::cosine;                       ///< warmup_stable_decay
};

struct Schedule {
  LrSchedulerType type = LrSchedulerType::linear;
  std::int64_t num_warmup_steps = 0;
  std::int64_t num_steps = 1;
  ScheduleShape shape = {};

  /// The factor for update number `step`, counted from 0.
  double operator()(std::int64_t step) const {
    const auto at = static_cast<double>(step), warmup = static_cast<double>(num_warmup_steps);
    const double after = std::max(1.0, static_cast<double>(num_steps - num_warmup_steps));
    if (!has_warmup(type)) return 1;
    if (type == LrSchedulerType::warmup_stable_decay) return stable_decay(step);
    if (type == LrSchedulerType::cosine_warmup_with_min_lr) {  // starts and ends one step earlier than the others
      if (step >= num_warmup_steps) return std::max(0.0, floored(wave((at - warmup + 1) / after, 0.5)));
      if (!shape.warmup_start) return (at + 1) / std::max(1.0, warmup);
      return *shape.warmup_start + (1 - *shape.warmup_start) * at / std::max(1.0, warmup - 1);
    }
    if (step < num_warmup_steps) return at / std::max(1.0, warmup);
    const double progress = (at - warmup) / after;
    switch (type) {
      case LrSchedulerType::linear:
        return std::max(0.0, (static_cast<double>(num_steps) - at) / after);
      case LrSchedulerType::cosine:
        return std::max(0.0, wave(progress, 0.5));
      case LrSchedulerType::cosine_with_min_lr:
        return std::max(0.0, floored(wave(progress, 0.5)));
      case LrSchedulerType::cosine_with_restarts:
        return progress >= 1 ? 0 : std::max(0.0, half_wave(std::fmod(shape.num_cycles.value_or(1) * progress, 1.0)));
      case LrSchedulerType::polynomial:
        return step > num_steps ? shape.end : (1 - shape.end) * std::pow(1 - progress, shape.power) + shape.end;
      case LrSchedulerType::inverse_sqrt: {
        const auto scale =
            static_cast<double>(shape.timescale.value_or(num_warmup_steps > 0 ? num_warmup_steps : 10'000));
        return 1 / std::sqrt((at + scale - warmup) / scale);
      }
      default:
        return 1;  // constant_with_warmup
    }
  }

 private:
  static double half_wave(double x) { return 0.5 * (1 + std::cos(std::numbers::pi * x)); }
  double wave(double progress, double cycles) const {
    return half_wave(shape.num_cycles.value_or(cycles) * 2 * progress);
  }
  double floored(double factor) const { return factor * (1 - shape.floor) + shape.floor; }

  double stable_decay(std::int64_t step) const {
    const auto part = [](std::int64_t done, std::int64_t all) {
      return static_cast<double>(done) / static_cast<double>(std::max<std::int64_t>(1, all));
    };
    const std::int64_t stable = shape.num_stable_steps.value_or(num_steps - num_warmup_steps - shape.num_decay_steps);
    if (step < num_warmup_steps) {
      const double progress = part(step, num_warmup_steps);
      double factor = progress;
      if (shape.warmup_type == RampType::cosine) factor = half_wave(1 - progress);
      if (shape.warmup_type == RampType::one_minus_sqrt) factor = 1 - std::sqrt(1 - progress);
      return std::max(0.0, floored(factor));
    }
    if (step < num_warmup_steps + stable) return 1;
    if (step >= num_warmup_steps + stable + shape.num_decay_steps) return shape.floor;
    const double progress = part(step - num_warmup_steps - stable, shape.num_decay_steps);
    double factor = 1 - progress;
    if (shape.decay_type == RampType::cosine) factor = wave(progress, 0.5);
    if (shape.decay_type == RampType::one_minus_sqrt) factor = 1 - std::sqrt(progress);
    return std::max(0.0, floored(factor));
  }
};

}  // namespace kto
