// SPDX-License-Identifier: Apache-2.0
// What the scores of an attention are made of.
#pragma once

#include <optional>

#include "kto/core/torch.hpp"
#include "kto/nn/alibi_spec.hpp"

namespace kto {

// Shapes: H heads.

struct AttentionForm {
  std::optional<std::int64_t> window = std::nullopt;  ///< how many tokens a token sees, itself included
  double scale = 1;
  double soft_cap = 0;  ///< scores are cap * tanh(score / cap); 0: no cap
  std::optional<AlibiSpec> alibi = std::nullopt;
  Tensor sinks_H = {};  ///< a score a head that takes part in the softmax, without a value; undefined: none
};

}  // namespace kto
