// SPDX-License-Identifier: Apache-2.0
// The output head of a decoder: what the log-prob room needs to make logits chunk by chunk.
#pragma once

#include <optional>

#include "kto/core/torch.hpp"

namespace kto {

// Shapes: V vocabulary, D width.

/// logits = soft_cap * tanh(z / soft_cap) with z = scale * (hidden weight^T + bias); no cap when soft_cap is 0.
struct Head {
  Tensor weight_VD;
  std::optional<Tensor> bias_V = std::nullopt;
  double scale = 1;
  double soft_cap = 0;
  /// How many logits log-probs hold at once; by the device when absent (ChunkedOptions).
  std::optional<std::int64_t> tile_elements = std::nullopt;
};

}  // namespace kto
