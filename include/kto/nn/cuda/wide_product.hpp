// SPDX-License-Identifier: Apache-2.0
// Products of narrow matrices with float32 results, which LibTorch has on CUDA alone.
#pragma once

#include "kto/core/torch.hpp"

namespace kto::detail {

// Shapes: N rows, I inputs, O outputs.

/// Whether wide_product accepts such states.
inline bool takes_wide_product(const Tensor& x_NI) {
  return x_NI.is_cuda() && (x_NI.scalar_type() == at::kBFloat16 || x_NI.scalar_type() == at::kHalf);
}

/// x_NI weight_OI^T in float32, with the weights rounded to x's type.
inline Tensor wide_product(const Tensor& x_NI, const Tensor& weight_OI) {
  return at::mm(x_NI, weight_OI.to(x_NI.scalar_type()).t(), at::kFloat);
}

}  // namespace kto::detail
