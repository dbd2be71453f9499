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

/// The gradient that an update without a fused kernel works on: group.grads, divided in place by the divisor, plus the
/// decayed values (in a new tensor) where the group decays.
inline Tensor prepared_gradient(FlatGroup& group, const Update& update, double weight_decay) {
  if (update.grad_divisor.defined()) group.grads.div_(update.grad_divisor.to(group.grads.scalar_type()));
  return group.decay && weight_decay != 0 ? group.grads.add(group.values, weight_decay) : group.grads;
}

/// `optimizer.step(parameters, update)` changes the parameters; it may scale the gradients in place.
template <class Optimizer>
concept UpdatesParameters = requires(Optimizer& optimizer, FlatParameters& parameters, const Update& update) {
  { optimizer.step(parameters, update) } -> std::same_as<void>;
};

/// Optional: `optimizer.visit_state(archive)` lists what a checkpoint must hold; see kto/io/state.hpp. Without it a run
/// cannot be saved.
template <class Optimizer>
concept OptimizerPolicy = UpdatesParameters<Optimizer>;

}  // namespace kto
