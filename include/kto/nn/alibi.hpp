// SPDX-License-Identifier: Apache-2.0
// The biases of ALiBi (arXiv:2108.12409).
#pragma once

#include <bit>
#include <cmath>

#include "kto/core/torch.hpp"
#include "kto/nn/alibi_spec.hpp"

namespace kto {

// Shapes: H heads, P earlier tokens, L tokens that follow them, S = P + L positions.

/// One slope a head, in float32 as in transformers: powers of 2^(-8 / n) for the first n heads, n the largest power of
/// two, and odd powers of its square root for the others.
inline Tensor alibi_slopes(std::int64_t num_heads, at::Device device) {
  const auto n = static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(num_heads)));
  const auto powers = [&](double base, const Tensor& exponents) {
    return at::pow(at::scalar_tensor(base, at::TensorOptions(device).dtype(at::kFloat)), exponents);
  };
  const auto range = [&](std::int64_t end, std::int64_t step) {
    return at::arange(1, end, step, at::TensorOptions(device).dtype(at::kInt));
  };
  const double base = std::exp2(-8 / static_cast<double>(n));
  const Tensor first = powers(base, range(1 + n, 1));
  if (n == num_heads) return first;
  return at::cat({first, powers(std::sqrt(base), range(1 + 2 * (num_heads - n), 2))});
}

/// [H, S]: what a score gets for a key at position 0 .. S - 1, of type `wide`, float32 or wider.
inline Tensor alibi_key_biases(const AlibiSpec& spec, std::int64_t num_heads, std::int64_t num_positions,
                               at::Device device, at::ScalarType wide) {
  const auto type = spec.in_bfloat16 ? at::kBFloat16 : at::kFloat;
  const Tensor position_S = at::arange(num_positions, at::TensorOptions(device).dtype(at::kLong));
  return (alibi_slopes(num_heads, device).to(type).unsqueeze(1) * position_S).to(wide) * spec.scale;
}

/// [H, L, P + L] to add to the scores, in the options' type. They are relative to each token's own position, which
/// leaves the softmax as it is and keeps narrow types exact where the weights are large.
inline Tensor alibi_biases(const AlibiSpec& spec, std::int64_t num_heads, std::int64_t length,
                           std::int64_t prefix_length, const at::TensorOptions& options) {
  const at::ScalarType own = c10::typeMetaToScalarType(options.dtype());
  const Tensor bias_HS = alibi_key_biases(spec, num_heads, prefix_length + length, options.device(), wide_type(own));
  const Tensor own_HL = bias_HS.narrow(1, prefix_length, length);
  return (bias_HS.unsqueeze(1) - own_HL.unsqueeze(2)).to(own);
}

}  // namespace kto
