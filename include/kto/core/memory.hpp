// SPDX-License-Identifier: Apache-2.0
// The memory of this process: how much it holds, how to release what is cached, and whether an error means that it ran
// out.
#pragma once

#if __has_include(<malloc.h>)  // __GLIBC__ is not known before the first header
#include <malloc.h>
#endif

#include <algorithm>
#include <array>
#include <cstdint>
#include <exception>
#include <fstream>
#include <new>
#include <string>
#include <string_view>

#include "kto/core/arena.hpp"
#include "kto/core/torch.hpp"

namespace kto {

/// Resident memory in bytes, current and peak; 0 on systems without /proc.
struct MemoryUse {
  std::int64_t resident = 0;
  std::int64_t peak = 0;
};

inline MemoryUse memory_use() {
  MemoryUse out;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    const auto kib = [&] { return std::stoll(line.substr(line.find(':') + 1)) * 1024; };
    if (line.starts_with("VmRSS:")) out.resident = kib();
    if (line.starts_with("VmHWM:")) out.peak = kib();
  }
  return out;
}

/// Resets the peak to the current value, if the system can (Linux).
inline void reset_memory_peak() { std::ofstream("/proc/self/clear_refs") << "5"; }

/// The same of the tensors on `device`, which is not the CPU.
inline MemoryUse device_memory_use(at::Device device) {
  const auto stats =
      at::getDeviceAllocator(device.type())->getDeviceStats(std::max<at::DeviceIndex>(0, device.index()));
  const auto& bytes = stats.allocated_bytes[0];  // of all pools
  return {.resident = bytes.current, .peak = bytes.peak};
}
inline void reset_device_memory_peak(at::Device device) {
  at::getDeviceAllocator(device.type())->resetPeakStats(std::max<at::DeviceIndex>(0, device.index()));
}

/// Returns unused memory that is cached for `device` to the system.
inline void release_cached_memory(at::Device device) {
  if (!device.is_cpu()) return at::getDeviceAllocator(device.type())->emptyCache();
#if defined(__linux__)
  if (auto* arena = dynamic_cast<detail::ArenaAllocator*>(c10::GetCPUAllocator())) arena->release_free();
#endif
#if defined(__GLIBC__)
  ::malloc_trim(0);
#endif
}

/// Whether `error` means that memory ran out, on a device or on the machine.
inline bool is_memory_error(const std::exception& error) {
  constexpr std::array<std::string_view, 5> signs{"out of memory", "can't allocate memory", "not enough memory",
                                                  "STATUS_ALLOC_FAILED",            // cuBLAS's and cuDNN's
                                                  "could not create a primitive"};  // oneDNN does not say why
  const std::string_view text = error.what();
  return dynamic_cast<const std::bad_alloc*>(&error) != nullptr ||
         dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr ||
         std::ranges::any_of(signs, [&](std::string_view sign) { return text.find(sign) != std::string_view::npos; });
}

}  // namespace kto
