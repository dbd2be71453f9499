// SPDX-License-Identifier: Apache-2.0
// A linear layer: the place where an adapter joins the frozen weight.
#pragma once

#include <optional>

#include "kto/model/matmul.hpp"

namespace kto {

// Shapes: N rows, I inputs, O outputs.

struct Linear {
  Tensor weight_OI;
  Tensor bias_O;  ///< undefined where there is none

  /// The product is computed in x's type, whatever the weight's.
  Tensor operator()(const Tensor& x_NI) const {
    return affine(x_NI, weight_OI, bias_O.defined() ? std::optional(bias_O) : std::nullopt);
  }
};

}  // namespace kto
