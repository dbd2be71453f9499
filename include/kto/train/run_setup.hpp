// SPDX-License-Identifier: Apache-2.0
// The set-up of a run: its optimizer, its random seed, and process-wide settings for its duration (deterministic
// kernels, TF32, the start of its memory metrics).
#pragma once

#include <algorithm>

#include "kto/core/memory.hpp"
#include "kto/dist/world.hpp"
#include "kto/io/json.hpp"
#include "kto/nn/cuda/settings.hpp"
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

/// While it lives, this process computes as `config` says: by kernels whose results are the same in each run, with
/// TF32. Throws Error where `device` has no TF32.
class Numerics {
 public:
  Numerics(const TrainConfig& config, at::Device device) : cuda_(config.tf32, config.full_determinism) {
    detail::check_tf32(config.tf32, device);
    if (config.full_determinism) at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  }
  Numerics(const Numerics&) = delete;
  Numerics& operator=(const Numerics&) = delete;
  ~Numerics() { at::globalContext().setDeterministicAlgorithms(was_deterministic_, /*warn_only=*/false); }

 private:
  bool was_deterministic_ = at::globalContext().deterministicAlgorithms();
  detail::CudaSettings cuda_;
};

class RunSetup {
 public:
  RunSetup(const TrainConfig& config, at::Device device, const World& world = {})
      : measures_memory_(!config.skip_memory_metrics), device_(device), numerics_(config, device) {
    // Dropout and noise, on each rank others; LibTorch's own seed differs from run to run.
    at::manual_seed(seed_of_rank(static_cast<std::uint64_t>(config.seed), world.rank));
    if (!measures_memory_) return;
    reset_memory_peak();
    start_ = memory_use();
    if (device_.is_cpu()) return;
    reset_device_memory_peak(device_);
    device_start_ = device_memory_use(device_);
  }
  /// Bytes under transformers' names: the increase since the start, and how far the peak in between exceeded both.
  /// Empty if not requested.
  Json memory_metrics() const {
    if (!measures_memory_) return Json::object();
    Json out = Json::object();
    const auto add = [&](const std::string& of, const MemoryUse& start, const MemoryUse& end) {
      out["train_mem_" + of + "_alloc_delta"] = end.resident - start.resident;
      out["train_mem_" + of + "_peaked_delta"] =
          std::max<std::int64_t>(0, end.peak - std::max(start.resident, end.resident));
    };
    add("cpu", start_, memory_use());
    if (device_.is_cpu()) return out;
    out["init_mem_gpu_alloc_delta"] = device_start_.resident;  // the weights, before training
    add("gpu", device_start_, device_memory_use(device_));
    return out;
  }

 private:
  bool measures_memory_;
  at::Device device_;
  Numerics numerics_;
  MemoryUse start_ = {}, device_start_ = {};
};

}  // namespace kto
