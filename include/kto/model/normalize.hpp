// SPDX-License-Identifier: Apache-2.0
// The linear layers behind a norm, or behind none.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "kto/model/modules.hpp"
#include "kto/nn/blocks.hpp"

namespace kto {

// Shapes: N rows, D width (the last dimension).

/// linear(normalized(x_ND)) for each of `linears`, or of x_ND itself without a norm; products in `type`.
inline std::vector<Tensor> normalized_linears(const std::optional<NormSpec>& spec, const Norm& norm, const Tensor& x_ND,
                                              at::ScalarType type, const std::vector<const Linear*>& linears) {
  if (!spec) return apply_each(linears, x_ND.to(type));
  return normed_linears(x_ND, *spec, norm, type, linears);
}

/// The sum x_ND + added_ND, then normalized_linears of it.
inline std::vector<Tensor> add_normalized_linears(const std::optional<NormSpec>& spec, const Norm& norm,
                                                  const Tensor& x_ND, const Tensor& added_ND, at::ScalarType type,
                                                  const std::vector<const Linear*>& linears) {
  if (spec) return add_normed_linears(x_ND, added_ND, *spec, norm, type, linears);
  std::vector<Tensor> out{x_ND + added_ND};
  for (Tensor& linear : normalized_linears(spec, norm, out[0], type, linears)) out.push_back(std::move(linear));
  return out;
}

}  // namespace kto
