// SPDX-License-Identifier: Apache-2.0
// What the guarded device counts, for tests in programs into which it is preloaded: `GuardedCounts guarded_counts()`.
// `void guarded_watch()` sets its signal handler again, where a program has set its own.
#pragma once

#include <dlfcn.h>

#include <cstdint>

struct GuardedCounts {
  std::int64_t kernels = 0;
  std::int64_t backward_kernels = 0;  ///< of them on threads of LibTorch's that run backward passes
  std::int64_t queued_to_device = 0;  ///< copies from pinned memory that nothing waits for
  std::int64_t waited_to_device = 0;  ///< all others
  std::int64_t bytes_to_device = 0;
  std::int64_t to_host = 0;
  std::int64_t bytes_to_host = 0;
  std::int64_t scalars_to_host = 0;         ///< single numbers, and operators that wait for one
  std::int64_t kernels_at_last_scalar = 0;  ///< `kernels` when the host last waited
  std::int64_t queued_at_last_scalar = 0;   ///< `queued_to_device` likewise
  std::int64_t new_blocks = 0;              ///< memory that no freed block of the same size served
  std::int64_t emptied = 0;                 ///< calls that release cached memory
};

/// Calls a function of the device's by its name. Only in a process into which it is preloaded.
template <class Result>
Result ask_guarded(const char* name) {
  return reinterpret_cast<Result (*)()>(::dlsym(RTLD_DEFAULT, name))();
}
