// SPDX-License-Identifier: Apache-2.0
// The head's product for narrow states with float32 results, which no rounding to the states' type comes between: the
// arms of the processors that have one.
#pragma once

#include "kto/logprob/bf16_logits.hpp"
#include "kto/nn/cuda/wide_product.hpp"
#include "kto/nn/matmul.hpp"

namespace kto::detail {

// Shapes: c tokens, v rows of the weight, D width.

/// Whether float_logits accepts such states and weights; if so, also with the weights cast to the states' type.
inline bool takes_float_logits(const Tensor& hidden_cD, const Tensor& weight_vD) {
  return needs_widening(hidden_cD) || takes_bf16_logits(hidden_cD, weight_vD) || takes_wide_product(hidden_cD);
}

/// hidden_cD weight_vD^T in float32.
inline Tensor float_logits(const Tensor& hidden_cD, const Tensor& weight_vD) {
  if (needs_widening(hidden_cD)) return widened_product(hidden_cD, weight_vD, {}, at::kFloat, float_product);
  if (takes_wide_product(hidden_cD)) return wide_product(hidden_cD, weight_vD);
  return bf16_logits(hidden_cD, weight_vD);
}

}  // namespace kto::detail
