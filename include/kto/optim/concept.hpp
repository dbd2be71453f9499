// SPDX-License-Identifier: Apache-2.0
// The contract of an optimizer: one update of flat parameters from their gradients.
#pragma once

#include <concepts>

#include "kto/core/member_names.hpp"
#include "kto/optim/flat_parameters.hpp"

namespace kto {

/// What one update is given.
struct Update {
  double learning_rate = 0;
  Tensor grad_divisor;  ///< float32 without dimensions; gradients are divided by it (clipping); undefined for 1
};

/// Calls visit(i, group, slice, value) for each parameter that has a gradient, slice.parameter.grad(), the i-th of all;
/// `value` is the parameter without autograd. As in torch, one without a gradient is left as it is.
template <class Visit>
void visit_gradients(const FlatParameters& parameters, const Visit& visit) {
  std::size_t next = 0;
  for (const FlatGroup& group : parameters.groups)
    for (const FlatSlice& slice : group.slices) {
      const std::size_t i = next++;
      if (slice.parameter.grad().defined()) visit(i, group, slice, slice.view(group.values));
    }
}

/// The gradient that an update without a fused kernel works on: divided in place by the divisor, plus the decayed value
/// (in a new tensor) where the group decays.
inline Tensor prepared_gradient(const FlatGroup& group, const FlatSlice& slice, const Update& update,
                                double weight_decay) {
  const Tensor& grad = slice.parameter.grad();
  if (update.grad_divisor.defined()) grad.div_(update.grad_divisor.to(grad.scalar_type()));
  return group.decay && weight_decay != 0 ? grad.add(slice.view(group.values), weight_decay) : grad;
}

/// `optimizer.step(parameters, update)` changes the parameters; it may scale the gradients in place.
template <class Optimizer>
concept UpdatesParameters = requires(Optimizer& optimizer, FlatParameters& parameters, const Update& update) {
  { optimizer.step(parameters, update) } -> std::same_as<void>;
};

/// Optional: `optimizer.prepare(parameters)` makes the state that step() needs where it is not there yet. The trainer
/// calls it before the first step, so that what stays does not lie between what a step frees.
template <class Optimizer>
concept PreparesState = requires(Optimizer& optimizer, const FlatParameters& parameters) {
  { optimizer.prepare(parameters) } -> std::same_as<void>;
};

namespace detail {
struct OptimizerHooks {
  int prepare;
};
}  // namespace detail

/// An optimizer has a member of that name: it must match the contract above.
template <class Optimizer>
concept NamesPrepare =
    detail::CanBeBase<Optimizer> && !requires { &detail::WithNames<Optimizer, detail::OptimizerHooks>::prepare; };

/// Optional: `optimizer.visit_state(archive)` lists what a checkpoint must hold; see kto/io/state.hpp. Without it a run
/// cannot be saved.
template <class Optimizer>
concept OptimizerPolicy = UpdatesParameters<Optimizer>;

}  // namespace kto
