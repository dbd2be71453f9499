// SPDX-License-Identifier: Apache-2.0
// What attention keeps of a row for tokens that come after it.
#pragma once

#include "kto/core/torch.hpp"

namespace kto {

/// Keys and values of one layer for the tokens of a row, keys rotated by their positions.
struct KeysValues {
  Tensor k_NKd, v_NKd;
};

}  // namespace kto
