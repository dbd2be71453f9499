// SPDX-License-Identifier: Apache-2.0
// Attention with linear biases. Free of LibTorch.
#pragma once

namespace kto {

/// ALiBi (arXiv:2108.12409): a score gets scale * slope * position of its key, the slope being its head's.
struct AlibiSpec {
  double scale = 1;          ///< of all biases
  bool in_bfloat16 = false;  ///< slope and product are rounded to bfloat16, else to float32
};

}  // namespace kto
