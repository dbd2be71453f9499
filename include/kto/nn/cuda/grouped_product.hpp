// SPDX-License-Identifier: Apache-2.0
// Products of groups of rows, each with a matrix of its own, in one kernel that reads on the device where groups end: the
// host need not wait for that. LibTorch 2.11 to 2.15 have it for bfloat16 on GPUs of compute capability 9 and 10; for other
// types and GPUs their operator reads the ends to the host at each call.
#pragma once

#include "kto/nn/cuda/capability.hpp"

namespace kto::detail {

// Shapes: S rows sorted by group, E groups, I and O widths.

/// Whether the device has a kernel for it. Devices other than CUDA's are taken at their word, for bfloat16.
inline bool has_grouped_product(at::Device device, c10::DispatchKeySet keys) {
  if (device.is_cuda()) {
    const Capability capability = compute_capability(device).value_or(0);
    return capability / 10 == 9 || capability / 10 == 10;
  }
  static const auto schema = c10::Dispatcher::singleton().findSchema({"aten::_grouped_mm", ""});
  return schema && schema->hasKernelForDispatchKey(c10::legacyExtractDispatchKey(keys));
}

/// Whether grouped_product takes such matrices: rows and columns of multiples of 16 bytes, at such addresses.
inline bool takes_grouped_product(const Tensor& a, const Tensor& b, std::int64_t num_groups) {
  const auto is_aligned = [](const Tensor& x) {
    const std::int64_t step = x.stride(-1) == 1 ? x.stride(-2) : x.stride(-2) == 1 ? x.stride(-1) : 1;
    return step % 8 == 0 && reinterpret_cast<std::uintptr_t>(x.const_data_ptr()) % 16 == 0;
  };
  const bool narrow = a.scalar_type() == at::kBFloat16 && b.scalar_type() == at::kBFloat16;
  return narrow && a.numel() > 0 && num_groups < 1024 && b.size(-1) % 8 == 0 && is_aligned(a) && is_aligned(b) &&
         has_grouped_product(a.device(), a.key_set());
}

/// Of x_SI and weight_EIO, [S, O]: each row times its group's matrix. Of a_OS and b_SI, [E, O, I]: the products of each
/// group's columns and rows. end_E: where each group ends, int32. Without autograd.
inline Tensor grouped_product(const Tensor& a, const Tensor& b, const Tensor& end_E) {
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  const Tensor out = at::_grouped_mm(a, b, end_E);
  // What no row is of may have any values, depending on the GPU.
  if (out.dim() == 3) out.masked_fill_((end_E.diff(1, 0, at::zeros({1}, end_E.options())) == 0).view({-1, 1, 1}), 0);
  return out;
}

}  // namespace kto::detail
