// SPDX-License-Identifier: Apache-2.0
// The devices of this machine, copies from the host to one, and which one this process computes on. What it computes
// there is composed of LibTorch's operators, but for the kernels of nn/cpu and nn/cuda.
#pragma once

#include <optional>
#include <vector>

#include "kto/core/torch.hpp"

namespace kto {

/// `tensor` on `device`. A copy from the host is queued behind the device's work, from pinned memory: nothing waits.
inline Tensor to_device(const Tensor& tensor, at::Device device) {
  if (device.is_cpu() || !tensor.is_cpu()) return tensor.to(device);
  return tensor.pin_memory().to(device, /*non_blocking=*/true);
}

/// Numbers, as a tensor on `device`, likewise.
template <class Number>
Tensor to_device(const std::vector<Number>& values, at::Device device) {
  return to_device(at::tensor(at::ArrayRef<Number>(values)), device);
}

/// How many devices of a kind LibTorch has on this machine; 0 for a kind that it was built without.
inline int num_devices(at::DeviceType type) {
  return c10::impl::hasDeviceGuardImpl(type) ? c10::impl::getDeviceGuardImpl(type)->deviceCount() : 0;
}

/// The accelerator that LibTorch finds on this machine; the CPU if there is none, or it has no float64, in which sums are
/// kept.
inline at::Device usual_device() {
  const std::optional<at::DeviceType> type = at::getAccelerator();
  return type && num_devices(*type) > 0 && *type != at::kMPS ? *type : at::kCPU;
}

/// Makes `device` the one that, on this thread, its kind without a number is.
inline void use_device(at::Device device) { c10::impl::VirtualGuardImpl(device.type()).setDevice(device); }

}  // namespace kto
