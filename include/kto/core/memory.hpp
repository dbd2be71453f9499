// SPDX-License-Identifier: Apache-2.0
// The memory of this process: how much it holds, giving back what is cached, and telling that there was too little.
#pragma once

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <algorithm>
#include <cstdint>
#include <exception>
#include <fstream>
#include <new>
#include <string>

#include "kto/core/torch.hpp"

namespace kto {

/// Resident memory in bytes, now and at its highest; 0 where the system has no /proc.
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

/// Lets the peak begin anew at what is held now, where the system can (Linux).
inline void reset_memory_peak() { std::ofstream("/proc/self/clear_refs") << "5"; }

/// Gives memory that is cached for `device` but not used back to the system.
inline void release_cached_memory(at::Device device) {
  if (!device.is_cpu()) return at::getDeviceAllocator(device.type())->emptyCache();
#if defined(__GLIBC__)
  ::malloc_trim(0);
#endif
}

/// Whether `error` says that memory ran out, of a device or of the machine.
inline bool is_memory_error(const std::exception& error) {
  const std::string text = error.what();
  return dynamic_cast<const std::bad_alloc*>(&error) != nullptr ||
         dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr ||
         text.find("out of memory") != std::string::npos || text.find("can't allocate memory") != std::string::npos ||
         text.find("not enough memory") != std::string::npos ||
         text.find("could not create a primitive") != std::string::npos;  // oneDNN, which does not say why
}

}  // namespace kto
