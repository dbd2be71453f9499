// SPDX-License-Identifier: Apache-2.0
// RMSNorm (arXiv:1910.07467), computed in float32 or wider.
#pragma once

#include "kto/core/torch.hpp"

namespace kto {

/// The type that norms, the residual stream and rotary tables are kept in where products are computed in `type`.
inline at::ScalarType wide_type(at::ScalarType type) { return type == at::kDouble ? at::kDouble : at::kFloat; }

/// weight * x / sqrt(mean(x^2) + eps) over the last dimension, of wide_type. As in transformers the normalised x is
/// rounded to its own type before it meets the weight.
inline Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  const at::ScalarType type = wide_type(x.scalar_type());
  const Tensor wide = x.to(type);
  const Tensor normed = wide * at::rsqrt(wide.square().mean(-1, true) + eps);
  return weight.to(type) * normed.to(x.scalar_type());
}

}  // namespace kto
