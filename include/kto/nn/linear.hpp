// SPDX-License-Identifier: Apache-2.0
// A linear layer: the place where an adapter joins the frozen weight.
#pragma once

#include <optional>
#include <vector>

#include "kto/nn/lora.hpp"

namespace kto {

// Shapes: N rows, I inputs, O outputs.

struct Linear {
  Tensor weight_OI;  ///< [I, O] where is_transposed
  Tensor bias_O;     ///< undefined if the layer has no bias
  std::optional<LoraWeights> lora = std::nullopt;
  bool is_transposed = false;  ///< transformers' Conv1D; PEFT's fan_in_fan_out

  /// The product is computed in x's type, whatever the weight's.
  Tensor operator()(const Tensor& x_NI) const {
    const auto bias = bias_O.defined() ? std::optional(bias_O) : std::nullopt;
    const Tensor out_NO = is_transposed ? affine_transposed(x_NI, weight_OI, bias) : affine(x_NI, weight_OI, bias);
    return lora ? lora->add_to(out_NO, x_NI, is_transposed ? weight_OI.t() : weight_OI, bias) : out_NO;
  }
};

/// linear(x_NI) for each of `linears`.
inline std::vector<Tensor> apply_each(const std::vector<const Linear*>& linears, const Tensor& x_NI) {
  std::vector<Tensor> out;
  for (const Linear* linear : linears) out.push_back((*linear)(x_NI));
  return out;
}

}  // namespace kto
