// SPDX-License-Identifier: Apache-2.0
// What a norm computes. Free of LibTorch.
#pragma once

namespace kto {

/// A norm over the last dimension: x / rms(x) or (x - mean) / std, times (weight + offset), plus a bias.
struct NormSpec {
  bool is_layer_norm = false;  ///< else the root mean square norm
  double eps = 1e-6;           ///< added to the mean square, or to the variance
  double offset = 0;           ///< of the weight
  bool has_weight = true;      ///< else it multiplies by 1
  bool has_bias = false;       ///< else it adds nothing
};

}  // namespace kto
