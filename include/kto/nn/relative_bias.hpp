// SPDX-License-Identifier: Apache-2.0
// The relative position biases of T5 (arXiv:1910.10683).
#pragma once

#include <cmath>

#include "kto/core/torch.hpp"
#include "kto/nn/relative_bias_spec.hpp"

namespace kto {

// Shapes: L queries, M keys, H heads, R distances, K buckets.

/// The bucket (int64) of each distance, a key's position less its query's, with logarithms in float32 as in
/// transformers.
inline Tensor relative_buckets(const RelativeBiasSpec& spec, const Tensor& distance_R) {
  const std::int64_t count = spec.is_bidirectional ? spec.num_buckets / 2 : spec.num_buckets, exact = count / 2;
  const Tensor side_R = spec.is_bidirectional ? (distance_R > 0).to(at::kLong) * count : at::zeros_like(distance_R);
  const Tensor length_R = spec.is_bidirectional ? distance_R.abs() : (-distance_R).clamp_min(0);
  const double growth = std::log(static_cast<double>(spec.max_distance) / static_cast<double>(exact));
  const Tensor far_R =
      exact + (at::log(length_R.to(at::kFloat) / exact) / growth * static_cast<double>(count - exact)).to(at::kLong);
  return side_R + at::where(length_R < exact, length_R, far_R.clamp_max(count - 1));
}

/// The biases [H, L, M] of queries whose first is at position `first`, and keys from position 0 on, from the table.
inline Tensor relative_bias(const RelativeBiasSpec& spec, const Tensor& table_KH, std::int64_t num_queries,
                            std::int64_t num_keys, std::int64_t first = 0) {
  const Tensor distance_R =
      at::arange(1 - first - num_queries, num_keys - first, table_KH.options().dtype(at::kLong).requires_grad(false));
  const Tensor value_HR = table_KH.index_select(0, relative_buckets(spec, distance_R)).t();
  // One window of distances a query: the last query's comes first.
  return value_HR.unfold(1, num_keys, 1).flip(1);
}

}  // namespace kto
