// SPDX-License-Identifier: Apache-2.0
// The learning rate of a run, from lr_scheduler_type and lr_scheduler_kwargs: the one object that a loop asks at each
// step and hears of each evaluation.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "kto/core/enum_names.hpp"
#include "kto/io/json.hpp"
#include "kto/optim/plateau.hpp"
#include "kto/optim/schedule.hpp"

namespace kto {

namespace detail {

/// Reads lr_scheduler_kwargs: each take() of a known name; finish() refuses the names that nobody took.
class ScheduleArguments {
 public:
  explicit ScheduleArguments(const Json& values) : values_(values) {
    if (!values.is_null() && !values.is_object())
      throw UsageError("lr_scheduler_kwargs: expected an object such as {\"num_cycles\": 2}");
  }

  /// Sets `out` when `name` is given and not null. `least` and `most` bound a number.
  template <class Number>
  bool take(std::string_view name, Number& out, double least = -1e300, double most = 1e300) {
    const Json* value = find(name);
    if (value == nullptr) return false;
    const bool whole = std::is_integral_v<Number>;
    const double number = value->is_number() ? value->get<double>() : std::nan("");
    if (!(number >= least && number <= most) || (whole && number != std::floor(number)))
      refuse(name, *value,
             concat(whole ? "an integer" : "a number", least > -1e300 ? concat(" >= ", least) : "",
                    most < 1e300 ? concat(" and <= ", most) : ""));
    out = static_cast<Number>(number);
    return true;
  }
  template <class Number>
  bool take(std::string_view name, std::optional<Number>& out, double least = -1e300, double most = 1e300) {
    Number number{};
    if (take(name, number, least, most)) out = number;
    return out.has_value();
  }
  bool take(std::string_view name, bool& out) {
    const Json* value = find(name);
    if (value == nullptr) return false;
    if (!value->is_boolean()) refuse(name, *value, "true or false");
    out = value->get<bool>();
    return true;
  }
  /// One of `names`, as its place among them.
  template <class Enum>
  bool take(std::string_view name, Enum& out, const std::vector<std::string_view>& names) {
    const Json* value = find(name);
    if (value == nullptr) return false;
    const auto found = std::ranges::find_if(names, [&](std::string_view each) { return *value == each; });
    if (found != names.end()) {
      out = static_cast<Enum>(found - names.begin());
      return true;
    }
    std::string all;
    for (const std::string_view each : names) all.append(all.empty() ? "" : " or ").append(each);
    refuse(name, *value, all);
  }

  void finish(std::string_view type) const {
    if (!values_.is_object()) return;
    std::string known;
    for (const std::string& name : known_) known += (known.empty() ? "" : ", ") + name;
    for (const auto& [key, value] : values_.items())
      if (std::ranges::find(known_, key) == known_.end())
        throw UsageError(concat("lr_scheduler_kwargs: ", type, " has no argument ", Json(key).dump(), "; it has ",
                                known.empty() ? "none" : known));
  }

 private:
  const Json* find(std::string_view name) {
    known_.emplace_back(name);
    const auto found = values_.find(known_.back());
    return found == values_.end() || found->is_null() ? nullptr : &*found;
  }
  [[noreturn]] static void refuse(std::string_view name, const Json& value, std::string_view expected) {
    throw UsageError(concat("lr_scheduler_kwargs: ", name, ": expected ", expected, ", got ", value.dump()));
  }

  const Json& values_;
  std::vector<std::string> known_ = {};
};

}  // namespace detail

/// What make_learning_rate needs to know of a run.
struct RateSettings {
  LrSchedulerType type = LrSchedulerType::linear;
  double peak = 0;
  std::int64_t num_warmup_steps = 0;
  std::int64_t num_steps = 1;
};

class LearningRate {
 public:
  LearningRate(double peak, Schedule schedule) : peak_(peak), course_(schedule) {}
  explicit LearningRate(PlateauRate plateau) : course_(plateau) {}
  explicit LearningRate(GreedyRate greedy) : course_(std::move(greedy)) {}

  /// The rate of update number `step`, counted from 0.
  double operator()(std::int64_t step) const {
    if (const auto* schedule = std::get_if<Schedule>(&course_)) return peak_ * (*schedule)(step);
    if (const auto* plateau = std::get_if<PlateauRate>(&course_)) return plateau->rate;
    return std::get<GreedyRate>(course_).rate;
  }

  /// Tells an evaluation's metric; only rates that follow the evaluations look at it.
  void observe(double metric) {
    if (auto* plateau = std::get_if<PlateauRate>(&course_)) plateau->observe(metric);
    if (auto* greedy = std::get_if<GreedyRate>(&course_)) greedy->observe(metric);
  }

  /// Only rates that follow the evaluations have a state.
  template <class Archive>
  void visit_state(Archive& archive) {
    if (auto* plateau = std::get_if<PlateauRate>(&course_)) plateau->visit_state(archive);
    if (auto* greedy = std::get_if<GreedyRate>(&course_)) greedy->visit_state(archive);
  }

  std::variant<Schedule, PlateauRate, GreedyRate>& course() { return course_; }

 private:
  double peak_ = 0;
  std::variant<Schedule, PlateauRate, GreedyRate> course_;
};

/// The learning rate that `settings` and lr_scheduler_kwargs describe, with transformers' names and defaults. Throws
/// UsageError for a name that the type does not have, a value out of range, and one that is missing.
inline LearningRate make_learning_rate(const RateSettings& settings, const Json& kwargs) {
  using enum LrSchedulerType;
  detail::ScheduleArguments arguments(kwargs);
  const auto type = settings.type;
  const auto improvement = [&](Improvement& improves) {
    arguments.take("mode", improves.maximize, {"min", "max"});
    arguments.take("threshold", improves.threshold);
    if (bool absolute = !improves.relative; arguments.take("threshold_mode", absolute, {"rel", "abs"}))
      improves.relative = !absolute;
  };
  constexpr double below_one = 1 - 1e-16;
  if (type == reduce_lr_on_plateau) {
    PlateauRate plateau{.rate = settings.peak};
    improvement(plateau.improves);
    plateau.best = plateau.improves.worst();
    arguments.take("factor", plateau.factor, 0, below_one);
    arguments.take("patience", plateau.patience, 0);
    arguments.take("cooldown", plateau.cooldown, 0);
    arguments.take("min_lr", plateau.min_lr, 0);
    arguments.take("eps", plateau.eps, 0);
    arguments.finish(enum_name(type));
    return LearningRate(plateau);
  }
  if (type == greedy) {
    GreedyRate rate{.rate = settings.peak};
    improvement(rate.improves);
    rate.best = rate.improves.worst();
    arguments.take("factor", rate.factor, 1e-300, below_one);
    arguments.take("patience", rate.patience, 0);
    arguments.take("cooldown", rate.cooldown, 0);
    arguments.take("warmup", rate.warmup, 0);
    arguments.take("min_lr", rate.min_lr, 0);
    arguments.take("max_lr", rate.max_lr, 0);
    arguments.take("eps", rate.eps, 0);
    bool smooth = false;
    std::int64_t window_size = 50;
    arguments.take("smooth", smooth);
    arguments.take("window_size", window_size, 1);
    if (smooth) rate.window_size = window_size;
    if (arguments.take("reset_start", rate.reset_start, 1)) rate.until_reset = rate.reset_start;
    arguments.finish(enum_name(type));
    return LearningRate(rate);
  }

  Schedule schedule{.type = type, .num_warmup_steps = settings.num_warmup_steps, .num_steps = settings.num_steps};
  ScheduleShape& shape = schedule.shape;
  if (type == cosine || type == cosine_with_restarts || type == cosine_with_min_lr ||
      type == cosine_warmup_with_min_lr || type == warmup_stable_decay)
    arguments.take("num_cycles", shape.num_cycles, 0);
  if (type == polynomial) {
    double last = 1e-7;
    arguments.take("lr_end", last, 0);
    arguments.take("power", shape.power, 0);
    if (!(settings.peak > last))
      throw UsageError(concat("lr_scheduler_type polynomial ends at lr_end (", last,
                              "), which must be below learning_rate (", settings.peak, ")"));
    shape.end = last / settings.peak;
  }
  if (type == inverse_sqrt) arguments.take("timescale", shape.timescale, 1);
  if (type == cosine_with_min_lr || type == cosine_warmup_with_min_lr) {
    double least = 0;
    const bool absolute = arguments.take("min_lr", least, 0), relative = arguments.take("min_lr_rate", shape.floor, 0);
    if (absolute == relative)
      throw UsageError(concat("lr_scheduler_type ", enum_name(type),
                              " needs one of min_lr and min_lr_rate in lr_scheduler_kwargs, such as "
                              "{\"min_lr_rate\": 0.1}"));
    if (absolute && !(settings.peak > 0)) throw UsageError("lr_scheduler_kwargs: min_lr needs a learning_rate above 0");
    if (absolute) shape.floor = least / settings.peak;
    if (type == cosine_warmup_with_min_lr) arguments.take("warmup_lr_rate", shape.warmup_start, 0);
  }
  if (type == warmup_stable_decay) {
    const std::vector<std::string_view> ramps{"linear", "cosine", "1-sqrt"};
    arguments.take("num_stable_steps", shape.num_stable_steps, 0);
    arguments.take("warmup_type", shape.warmup_type, ramps);
    arguments.take("decay_type", shape.decay_type, ramps);
    arguments.take("min_lr_ratio", shape.floor, 0);
    if (!arguments.take("num_decay_steps", shape.num_decay_steps, 0))
      throw UsageError(
          "lr_scheduler_type warmup_stable_decay needs num_decay_steps in lr_scheduler_kwargs, such as "
          "{\"num_decay_steps\": 100}");
  }
  arguments.finish(enum_name(type));
  return LearningRate(settings.peak, schedule);
}

}  // namespace kto
