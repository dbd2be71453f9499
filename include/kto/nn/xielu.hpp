// SPDX-License-Identifier: Apache-2.0
// xIELU (arXiv:2411.13010), an activation with trained parameters.
#pragma once

#include <cmath>

#include "kto/nn/norm.hpp"

namespace kto {

/// alpha_p' x^2 + beta x where x > 0, else alpha_n' (exp(min(x, eps)) - 1 - x) + beta x, with alpha_p' = softplus(alpha_p)
/// and alpha_n' = beta + softplus(alpha_n). Parameters [1].
struct Xielu {
  Tensor alpha_p, alpha_n;

  static constexpr double beta = 0.5, eps = -1e-6;

  /// Computed in float32 or wider; the result has x's type.
  Tensor operator()(const Tensor& x) const {
    const at::ScalarType type = wide_type(x.scalar_type());
    const Tensor wide = x.to(type);
    const Tensor positive = at::softplus(alpha_p.to(type)) * wide * wide;
    const Tensor negative = (beta + at::softplus(alpha_n.to(type))) * (wide.clamp_max(eps).expm1() - wide);
    return (at::where(wide > 0, positive, negative) + beta * wide).to(x.scalar_type());
  }
};

}  // namespace kto
