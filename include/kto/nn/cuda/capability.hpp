// SPDX-License-Identifier: Apache-2.0
// Which generation a GPU of NVIDIA's is of. Its driver is asked, which LibTorch has loaded where it uses the GPU: LibTorch's
// own functions for it need CUDA's headers.
#pragma once

#include <dlfcn.h>

#include <optional>
#include <vector>

#include "kto/core/device.hpp"

namespace kto::detail {

/// A compute capability as one number, 9.0 as 90.
using Capability = int;
constexpr Capability first_with_tf32 = 80;  // Ampere

/// Asks the NVIDIA driver for a GPU's capability. Empty without that driver.
inline std::optional<Capability> ask_capability(int index) {
  void* driver = ::dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
  if (driver == nullptr) return std::nullopt;  // the GPU is AMD's, which LibTorch calls CUDA, too
  const auto call = [driver](const char* name, auto... arguments) {
    const auto function = reinterpret_cast<int (*)(decltype(arguments)...)>(::dlsym(driver, name));
    return function != nullptr && function(arguments...) == 0;
  };
  constexpr int major_of = 75, minor_of = 76;  // CUdevice_attribute
  int gpu = 0, major = 0, minor = 0;
  const bool known = call("cuInit", 0U) && call("cuDeviceGet", &gpu, index) &&
                     call("cuDeviceGetAttribute", &major, major_of, gpu) &&
                     call("cuDeviceGetAttribute", &minor, minor_of, gpu);
  return known ? std::optional(10 * major + minor) : std::nullopt;
}

/// That of `device`; nothing for a device that is not NVIDIA's.
inline std::optional<Capability> compute_capability(at::Device device) {
  if (!device.is_cuda() || num_devices(device.type()) == 0) return std::nullopt;
  static const auto of_devices = [] {
    std::vector<std::optional<Capability>> out;
    for (int i = 0; i < num_devices(at::kCUDA); ++i) out.push_back(ask_capability(i));
    return out;
  }();
  const c10::impl::VirtualGuardImpl current(device.type());
  return of_devices.at(static_cast<std::size_t>(device.has_index() ? device.index() : current.getDevice().index()));
}

}  // namespace kto::detail
