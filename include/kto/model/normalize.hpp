// SPDX-License-Identifier: Apache-2.0
// A norm as its NormSpec says, and the linear layers behind one.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "kto/model/modules.hpp"
#include "kto/nn/blocks.hpp"

namespace kto {

// Shapes: N rows, D width (the last dimension).

namespace detail {

/// weight + offset, or ones where the norm has no weight.
inline Tensor norm_weight(const NormSpec& spec, const Norm& norm, const Tensor& x) {
  if (!spec.has_weight) return at::ones({x.size(-1)}, x.options().dtype(wide_type(x.scalar_type())));
  return spec.offset == 0 ? norm.weight_D : norm.weight_D + spec.offset;
}

}  // namespace detail

/// The norm of x, computed in float32 or wider, as `type`.
inline Tensor normalized(const NormSpec& spec, const Norm& norm, const Tensor& x, at::ScalarType type) {
  if (!spec.is_layer_norm) return rms_norm(x, detail::norm_weight(spec, norm, x), spec.eps, type);
  const at::ScalarType wide = wide_type(x.scalar_type());
  const auto of_type = [&](const Tensor& parameter) {
    return parameter.defined() ? std::optional(parameter.to(wide)) : std::nullopt;
  };
  const auto weight = spec.offset == 0 ? of_type(norm.weight_D) : of_type(detail::norm_weight(spec, norm, x));
  const bool by_head = weight && weight->dim() > 1;  // [heads, D]: at::layer_norm would take both as one width
  const Tensor normed =
      at::layer_norm(x.to(wide), {x.size(-1)}, by_head ? std::nullopt : weight, of_type(norm.bias_D), spec.eps);
  return (by_head ? normed * *weight : normed).to(type);
}

/// linear(normalized(x_ND)) for each of `linears`, or of x_ND itself without a norm; products in `type`.
inline std::vector<Tensor> normalized_linears(const std::optional<NormSpec>& spec, const Norm& norm, const Tensor& x_ND,
                                              at::ScalarType type, const std::vector<const Linear*>& linears) {
  if (!spec) return apply_each(linears, x_ND.to(type));
  if (spec->is_layer_norm) return apply_each(linears, normalized(*spec, norm, x_ND, type));
  return normed_linears(x_ND, detail::norm_weight(*spec, norm, x_ND), spec->eps, type, linears);
}

/// The sum x_ND + added_ND, then normalized_linears of it.
inline std::vector<Tensor> add_normalized_linears(const std::optional<NormSpec>& spec, const Norm& norm,
                                                  const Tensor& x_ND, const Tensor& added_ND, at::ScalarType type,
                                                  const std::vector<const Linear*>& linears) {
  if (spec && !spec->is_layer_norm)
    return add_normed_linears(x_ND, added_ND, detail::norm_weight(*spec, norm, x_ND), spec->eps, type, linears);
  std::vector<Tensor> out{x_ND + added_ND};
  for (Tensor& linear : normalized_linears(spec, norm, out[0], type, linears)) out.push_back(std::move(linear));
  return out;
}

}  // namespace kto
