// SPDX-License-Identifier: Apache-2.0
// Copies from the host to a device; which device this process computes on.
#pragma once

#include "kto/core/torch.hpp"

namespace kto {

/// `tensor` on `device`. A copy from the host is queued behind the device's work, from pinned memory: nothing waits.
inline Tensor to_device(const Tensor& tensor, at::Device device) {
  if (device.is_cpu() || !tensor.is_cpu()) return tensor.to(device);
  return tensor.pin_memory().to(device, /*non_blocking=*/true);
}

/// Makes `device` the one that, on this thread, "cuda" without a number is.
inline void use_device(at::Device device) { c10::impl::VirtualGuardImpl(device.type()).setDevice(device); }

}  // namespace kto
