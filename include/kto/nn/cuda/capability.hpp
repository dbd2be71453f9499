// SPDX-License-Identifier: Apache-2.0
// Which generation a GPU of NVIDIA's is of. Its driver is asked, which LibTorch has loaded where it uses the GPU: LibTorch's
// own functions for it need CUDA's headers.
#pragma once

#include <dlfcn.h>

#include <optional>

#include "kto/core/torch.hpp"

namespace kto::detail {

/// A compute capability as one number, 9.0 as 90.
using Capability = int;
constexpr Capability first_with_tf32 = 80;  // Ampere

/// That of `device`; nothing for a device that is not NVIDIA's.
inline std::optional<Capability> compute_capability(at::Device device) {
  if (!device.is_cuda()) return std::nullopt;
  void* driver = ::dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
  if (driver == nullptr) return std::nullopt;  // AMD's, which LibTorch calls CUDA, too
  const auto call = [driver](const char* name, auto... arguments) {
    const auto function = reinterpret_cast<int (*)(decltype(arguments)...)>(::dlsym(driver, name));
    return function != nullptr && function(arguments...) == 0;
  };
  constexpr int major_of = 75, minor_of = 76;  // CUdevice_attribute
  const int index =
      device.has_index() ? device.index() : c10::impl::VirtualGuardImpl(device.type()).getDevice().index();
  int gpu = 0, major = 0, minor = 0;
  if (!call("cuInit", 0U) || !call("cuDeviceGet", &gpu, index) ||
      !call("cuDeviceGetAttribute", &major, major_of, gpu) || !call("cuDeviceGetAttribute", &minor, minor_of, gpu))
    return std::nullopt;
  return 10 * major + minor;
}

}  // namespace kto::detail
