// SPDX-License-Identifier: Apache-2.0
// The few functions a loss formula needs, for Eigen arrays. LibTorch tensors find at::sigmoid and at::log_sigmoid by
// argument-dependent look-up, so a loss writes `using kto::sigmoid;` and then `sigmoid(x)` for either array type.
#pragma once

#include <Eigen/Core>

namespace kto {

/// 1 / (1 + exp(-x)), elementwise; saturates at 0 and 1 without overflow.
template <class Derived>
typename Derived::PlainObject sigmoid(const Eigen::ArrayBase<Derived>& x) {
  return (1 + (-x).exp()).inverse();
}

/// log(sigmoid(x)), elementwise, exact for large |x|.
template <class Derived>
typename Derived::PlainObject log_sigmoid(const Eigen::ArrayBase<Derived>& x) {
  return x.min(0) - (-x.abs()).exp().log1p();
}

/// The halves of a batch of pairs: rows 0..B/2-1 are chosen, the others rejected, for the same prompts in order.
template <class Array>
Array chosen_half(const Array& x_B) {
  if constexpr (requires { x_B.narrow(0, 0, 0); })
    return x_B.narrow(0, 0, x_B.size(0) / 2);
  else
    return x_B.head(x_B.size() / 2);
}
template <class Array>
Array rejected_half(const Array& x_B) {
  if constexpr (requires { x_B.narrow(0, 0, 0); })
    return x_B.narrow(0, x_B.size(0) / 2, x_B.size(0) / 2);
  else
    return x_B.tail(x_B.size() / 2);
}

}  // namespace kto
