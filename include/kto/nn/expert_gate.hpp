// SPDX-License-Identifier: Apache-2.0
// How an expert joins the two halves of its first product. Free of LibTorch.
#pragma once

#include "kto/nn/activation.hpp"

namespace kto {

/// activation(gate) * up, or clamped: (up + 1) * gate * sigmoid(alpha * gate) with gate at most `limit` and up within
/// +-limit.
struct ExpertGate {
  Activation activation = Activation::silu;  ///< of the first form
  bool is_interleaved = false;               ///< gate and up alternate in the product, else they are its halves
  bool is_clamped = false;                   ///< the second form
  double alpha = 0;                          ///< of the second form
  double limit = 0;                          ///< of the second form
};

}  // namespace kto
