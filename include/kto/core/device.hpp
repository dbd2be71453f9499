// SPDX-License-Identifier: Apache-2.0
// Copies from the host to a device.
#pragma once

#include "kto/core/torch.hpp"

namespace kto {

/// `tensor` on `device`. A copy from the host is queued behind the device's work, from pinned memory: nothing waits.
inline Tensor to_device(const Tensor& tensor, at::Device device) {
  if (device.is_cpu() || !tensor.is_cpu()) return tensor.to(device);
  return tensor.pin_memory().to(device, /*non_blocking=*/true);
}

}  // namespace kto
