// SPDX-License-Identifier: Apache-2.0
// Learning rates that follow the evaluations: lowered when a metric stops improving (torch's ReduceLROnPlateau), and
// also raised while it improves (transformers' GreedyLR, arXiv:2512.14527).
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <limits>
#include <numeric>

namespace kto {

/// When a metric counts as better than the best so far.
struct Improvement {
  bool maximize = false;
  double threshold = 1e-4;
  bool relative = true;  ///< the threshold is relative to the best value

  double worst() const {
    return maximize ? -std::numeric_limits<double>::infinity() : std::numeric_limits<double>::infinity();
  }
  bool operator()(double value, double best) const {
    const double margin = maximize ? threshold : -threshold;
    const double bound = relative ? best * (1 + margin) : best + margin;
    return maximize ? value > bound : value < bound;
  }
};

/// ReduceLROnPlateau. Defaults are torch's.
struct PlateauRate {
  double rate = 0;  ///< the current rate; initially the peak
  Improvement improves = {};
  double factor = 0.1;
  std::int64_t patience = 10;  ///< evaluations without improvement before a reduction
  std::int64_t cooldown = 0;   ///< evaluations after a reduction that do not count
  double min_lr = 0;
  double eps = 1e-8;  ///< smaller changes are skipped

  double best = improves.worst();
  std::int64_t num_bad = 0;
  std::int64_t cooling = 0;

  template <class Archive>
  void visit_state(Archive& archive) {
    archive("rate", rate);
    archive("best", best);
    archive("num_bad", num_bad);
    archive("cooling", cooling);
  }

  /// Processes the metric of an evaluation.
  void observe(double metric) {
    if (improves(metric, best)) {
      best = metric;
      num_bad = 0;
    } else {
      ++num_bad;
    }
    if (cooling > 0) {
      --cooling;
      num_bad = 0;
    }
    if (num_bad <= patience) return;
    const double lower = std::max(rate * factor, min_lr);
    if (rate - lower > eps) rate = lower;
    cooling = cooldown;
    num_bad = 0;
  }
};

/// GreedyLR. Defaults are transformers'.
struct GreedyRate {
  double rate = 0;  ///< the current rate; initially the peak
  Improvement improves = {.threshold = 1e-6, .relative = false};
  double factor = 0.95;
  std::int64_t patience = 10;  ///< evaluations in a row, all better or all worse, before the rate changes
  std::int64_t cooldown = 0;   ///< evaluations after a reduction that do not count
  std::int64_t warmup = 0;     ///< the same after an increase
  double min_lr = 1e-3;
  double max_lr = 1;
  double eps = 1e-8;
  std::int64_t window_size = 1;    ///< the metric is averaged over this many evaluations
  std::int64_t reset_start = 500;  ///< reductions due at min_lr before everything resets

  double first_rate = rate;
  double best = improves.worst();
  std::int64_t num_bad = 0, num_good = 0, waiting = 0;
  std::int64_t until_reset = reset_start;
  std::deque<double> window = {};

  template <class Archive>
  void visit_state(Archive& archive) {
    archive("rate", rate);
    archive("best", best);
    archive("num_bad", num_bad);
    archive("num_good", num_good);
    archive("waiting", waiting);
    archive("until_reset", until_reset);
    archive("window", window);
  }

  void observe(double metric) {
    window.push_back(metric);
    if (static_cast<std::int64_t>(window.size()) > window_size) window.pop_front();
    const double value = std::accumulate(window.begin(), window.end(), 0.0) / static_cast<double>(window.size());
    if (waiting > 0) {
      --waiting;
      num_bad = num_good = 0;
      return;
    }
    if (improves(value, best)) {
      best = value;
      num_bad = 0;
      ++num_good;
    } else {
      ++num_bad;
      num_good = 0;
    }
    if (num_good > patience) {
      const double higher = std::min(rate / factor, max_lr);
      if (higher - rate > eps) rate = higher;
      until_reset = reset_start;
      waiting = warmup;
      num_good = 0;
    } else if (num_bad > patience) {
      const double lower = std::max(rate * factor, min_lr);
      if (rate - lower > eps) rate = lower;
      const bool starts_anew = rate <= min_lr && --until_reset <= 0;
      waiting = cooldown;
      num_bad = 0;
      if (starts_anew) {
        rate = first_rate;
        best = improves.worst();
        num_good = 0;
        until_reset = reset_start;
        window.clear();
      }
    }
  }
};

}  // namespace kto
