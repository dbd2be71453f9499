// SPDX-License-Identifier: Apache-2.0
// Process-wide settings of CUDA's libraries. They change nothing on other devices.
#pragma once

#include <cstdlib>
#include <optional>

#include "kto/core/error.hpp"
#include "kto/nn/cuda/capability.hpp"

namespace kto::detail {

/// Throws Error, as transformers does, when float32 products on `device` are to be TF32's and it has no TF32.
inline void check_tf32(std::optional<bool> tf32, at::Device device) {
  if (!tf32.value_or(false)) return;
  const auto capability = compute_capability(device);
  if (capability.value_or(0) >= first_with_tf32) return;
  const std::string generation =
      capability ? concat(" of compute capability ", *capability / 10, '.', *capability % 10) : "";
  fail("tf32 needs an NVIDIA GPU of the Ampere generation or a newer one (compute capability 8.0); ", device,
       generation, " has no TF32: leave tf32 out, or use bf16 for speed");
}

/// While it lives, float32 products and convolutions take factors of TF32 (10 bits) as `tf32` says, or as before where it
/// says nothing; with `deterministic`, kernels are chosen whose results are the same in each run.
class CudaSettings {
 public:
  CudaSettings(std::optional<bool> tf32, bool deterministic) {
    at::Context& context = at::globalContext();
    if (tf32) {
      was_in_products_ = context.allowTF32CuBLAS();
      was_in_convolutions_ = context.allowTF32CuDNN();
      set_tf32(*tf32, *tf32);
    }
    if (!deterministic) return;
    // LibTorch refuses products without it. cuBLAS reads it when it starts, so it stays.
    ::setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
    was_deterministic_ = context.deterministicCuDNN();
    was_benchmark_ = context.benchmarkCuDNN();
    set_convolutions(true, false);
  }
  CudaSettings(const CudaSettings&) = delete;
  CudaSettings& operator=(const CudaSettings&) = delete;
  ~CudaSettings() {
    if (was_in_products_) set_tf32(*was_in_products_, *was_in_convolutions_);
    if (was_deterministic_) set_convolutions(*was_deterministic_, *was_benchmark_);
  }

 private:
  static void set_tf32(bool in_products, bool in_convolutions) {
    at::globalContext().setAllowTF32CuBLAS(in_products);
    at::globalContext().setAllowTF32CuDNN(in_convolutions);
  }
  static void set_convolutions(bool deterministic, bool benchmark) {
    at::globalContext().setDeterministicCuDNN(deterministic);
    at::globalContext().setBenchmarkCuDNN(benchmark);
  }

  std::optional<bool> was_in_products_, was_in_convolutions_, was_deterministic_, was_benchmark_;
};

}  // namespace kto::detail
