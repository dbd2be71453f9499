// SPDX-License-Identifier: Apache-2.0
// The contract of an optimizer: one update of flat parameters from their gradients.
#pragma once

#include <concepts>

#include "kto/optim/flat_parameters.hpp"

namespace kto {

/// What one update is given.
struct Update {
  double learning_rate = 0;
  Tensor grad_divisor;  ///< float32 without dimensions; gradients are divided by it (clipping); undefined for 1
};

/// `optimizer.step(parameters, update)` changes the parameters; it may scale the gradients in place.
template <class Optimizer>
concept UpdatesParameters = requires(Optimizer& optimizer, FlatParameters& parameters, const Update& update) {
  { optimizer.step(parameters, update) } -> std::same_as<void>;
};

template <class Optimizer>
concept OptimizerPolicy = UpdatesParameters<Optimizer>;

}  // namespace kto
