// SPDX-License-Identifier: Apache-2.0
// Rotary position embeddings (arXiv:2104.09864) and the ways to stretch them over longer contexts, computed as
// transformers 5.24 does: frequencies, cosines and sines in float32 whatever the model's type.
#pragma once

#include <cmath>
#include <numbers>
#include <vector>

#include "kto/core/device.hpp"
#include "kto/nn/rope_spec.hpp"

namespace kto {

// Shapes: N tokens, d head dimension, F = d / 2 frequencies.

/// Cosines and sines of every token's angles.
struct RopeTables {
  Tensor cos_Nd;
  Tensor sin_Nd;
  bool interleaved = false;  ///< see RopeConfig
};

namespace detail {

/// yarn, arXiv:2309.00071: high frequencies stay, low ones are divided by the factor, with a ramp between them.
inline Tensor yarn_frequencies(const RopeConfig& rope, const Tensor& wavelength_F) {
  const auto dim = static_cast<double>(2 * wavelength_F.numel());
  const auto dimension_of = [&](double num_rotations) {
    return dim * std::log(static_cast<double>(rope.original_max_positions) / (num_rotations * 2 * std::numbers::pi)) /
           (2 * std::log(rope.theta));
  };
  double low = dimension_of(rope.yarn.beta_fast), high = dimension_of(rope.yarn.beta_slow);
  if (rope.yarn.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;
  const Tensor ramp_F = ((at::arange(wavelength_F.numel(), wavelength_F.options()) - low) / (high - low)).clamp(0, 1);
  const Tensor kept_F = 1 - ramp_F;
  return 1 / (rope.factor * wavelength_F) * (1 - kept_F) + 1 / wavelength_F * kept_F;
}

/// Llama 3.1: as yarn, with the ramp over wavelengths.
inline Tensor llama3_frequencies(const RopeConfig& rope, const Tensor& plain_F) {
  const auto original = static_cast<double>(rope.original_max_positions);
  const double low_wavelength = original / rope.low_freq_factor, high_wavelength = original / rope.high_freq_factor;
  // Reciprocals as PyTorch divides a number by a tensor: the last bit depends on it.
  const Tensor wavelength_F = plain_F.reciprocal() * (2 * std::numbers::pi);
  const Tensor scaled_F = at::where(wavelength_F > low_wavelength, plain_F / rope.factor, plain_F);
  const Tensor smooth_F =
      (wavelength_F.reciprocal() * original - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  const Tensor medium_F = (1 - smooth_F) * scaled_F / rope.factor + smooth_F * scaled_F;
  const Tensor is_medium_F = (wavelength_F >= high_wavelength).logical_and(wavelength_F <= low_wavelength);
  return at::where(is_medium_F, medium_F, scaled_F);
}

}  // namespace detail

/// Inverse frequencies [F], float32. `length` (int64, no dimensions) is the largest position of the batch plus one: the
/// dynamic and longrope types depend on it. Unlike transformers' dynamic type, which stays stretched until a batch
/// shorter than the original length arrives, a batch's result here never depends on the batches before it.
inline Tensor inverse_frequencies(const RopeConfig& rope, const Tensor& length) {
  const auto options = length.options().dtype(at::kFloat);
  const Tensor exponent_F = at::arange(0, rope.dim, 2, options) / rope.dim;
  const Tensor wavelength_F = at::pow(rope.theta, exponent_F);  // over 2 pi
  Tensor plain_F = 1 / wavelength_F;
  switch (rope.type) {
    case RopeType::linear:
      return plain_F / rope.factor;
    case RopeType::dynamic: {
      const double exponent = static_cast<double>(rope.dim) / static_cast<double>(rope.dim - 2);
      const Tensor stretch = (rope.factor * length / rope.max_positions - (rope.factor - 1)).pow(exponent);
      const Tensor stretched_F = 1 / at::pow(rope.theta * stretch, exponent_F);
      return at::where(length > rope.max_positions, stretched_F, plain_F);
    }
    case RopeType::yarn:
      return detail::yarn_frequencies(rope, wavelength_F);
    case RopeType::longrope: {
      const auto scaled = [&](const std::vector<double>& factor) {
        return 1 / (to_device(at::tensor(at::ArrayRef<double>(factor), at::kFloat), options.device()) * wavelength_F);
      };
      return at::where(length > rope.original_max_positions, scaled(rope.long_factor), scaled(rope.short_factor));
    }
    case RopeType::llama3:
      return detail::llama3_frequencies(rope, plain_F);
    case RopeType::proportional:
      return at::where(at::arange(plain_F.numel(), options) < rope.num_frequencies, plain_F / rope.factor, 0);
    case RopeType::plain:
      break;
  }
  return plain_F;
}

/// Tables for tokens at `position_N` (int64). Nothing is read back from the device.
inline RopeTables rope_tables(const RopeConfig& rope, const Tensor& position_N) {
  const Tensor frequency_F = inverse_frequencies(rope, position_N.max() + 1);
  const Tensor angle_NF = position_N.unsqueeze(-1).to(at::kFloat) * frequency_F;
  const Tensor angle_Nd = at::cat({angle_NF, angle_NF}, -1);
  const double sign = rope.backwards ? -1 : 1;
  return {angle_Nd.cos() * rope.attention_scaling, angle_Nd.sin() * (sign * rope.attention_scaling), rope.interleaved};
}

}  // namespace kto
