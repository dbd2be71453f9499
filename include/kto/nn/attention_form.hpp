// SPDX-License-Identifier: Apache-2.0
// What the scores of an attention are made of.
#pragma once

#include <optional>

#include "kto/core/torch.hpp"
#include "kto/nn/alibi_spec.hpp"
#include "kto/nn/relative_bias_spec.hpp"

namespace kto {

// Shapes: H heads, B buckets of distances.

struct AttentionForm {
  std::optional<std::int64_t> window = std::nullopt;  ///< how many tokens a token sees, itself included
  double scale = 1;
  double soft_cap = 0;  ///< scores are cap * tanh(score / cap); 0: no cap
  std::optional<AlibiSpec> alibi = std::nullopt;
  Tensor sinks_H = {};  ///< a score a head that takes part in the softmax, without a value; undefined: none
  std::optional<RelativeBiasSpec> relative = std::nullopt;
  Tensor bias_BH = {};  ///< what a score gets for its distance, with `relative`; float32 or wider
};

}  // namespace kto
