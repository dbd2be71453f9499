// SPDX-License-Identifier: Apache-2.0
// The set-up of a run: its optimizer, its random seed, and process-wide settings for its duration (deterministic
// kernels, the start of its memory metrics).
#pragma once

#include <algorithm>

#include "kto/core/memory.hpp"
#include "kto/io/json.hpp"
#include "kto/optim/adamw.hpp"
#include "kto/train/config.hpp"

namespace kto {

/// Creates the optimizer that `config` describes.
template <class Optimizer>
Optimizer make_optimizer(const TrainConfig& config) {
  if constexpr (std::is_same_v<Optimizer, AdamW>)
    return {config.adam_beta1, config.adam_beta2, config.adam_epsilon, config.weight_decay};
  else
    return {};
}

class RunSetup {
 public:
  explicit RunSetup(const TrainConfig& config)
      : measures_memory_(!config.skip_memory_metrics),
        was_deterministic_(at::globalContext().deterministicAlgorithms()) {
    at::manual_seed(static_cast<std::uint64_t>(config.seed));  // dropout; LibTorch's own seed differs from run to run
    if (config.full_determinism) at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
    if (!measures_memory_) return;
    reset_memory_peak();
    start_ = memory_use();
  }
  RunSetup(const RunSetup&) = delete;
  RunSetup& operator=(const RunSetup&) = delete;
  ~RunSetup() { at::globalContext().setDeterministicAlgorithms(was_deterministic_, /*warn_only=*/false); }

  /// Bytes under transformers' names: the increase since the start, and how far the peak in between exceeded both.
  /// Empty if not requested.
  Json memory_metrics() const {
    if (!measures_memory_) return Json::object();
    const MemoryUse end = memory_use();
    return {
        {"train_mem_cpu_alloc_delta", end.resident - start_.resident},
        {"train_mem_cpu_peaked_delta", std::max<std::int64_t>(0, end.peak - std::max(start_.resident, end.resident))}};
  }

 private:
  bool measures_memory_;
  bool was_deterministic_;
  MemoryUse start_ = {};
};

}  // namespace kto
