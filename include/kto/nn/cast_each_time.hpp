// SPDX-License-Identifier: Apache-2.0
// Weights that are held narrower than their products are widened at each use, one at a time.
#pragma once

#include "kto/nn/weight_grad.hpp"

namespace kto {

/// While one lives, what runs on this thread casts a weight at each use, also where a CastOnce is open: for weights that
/// are held narrow to save memory, of which that would hold wide copies.
class CastEachTime {
 private:
  detail::WeightScope scope_{{.adds_gradients = detail::WeightUse::current().adds_gradients, .casts = nullptr}};
};

}  // namespace kto
