// SPDX-License-Identifier: Apache-2.0
// The contract of an optimizer: one update of flat parameters from their gradients.
#pragma once

#include <concepts>

#include "kto/core/member_names.hpp"
#include "kto/optim/flat_parameters.hpp"

namespace kto {

/// The arguments of one update.
struct Update {
  double learning_rate = 0;  ///< of this update
  Tensor grad_divisor;       ///< float32 scalar; gradients are divided by it (clipping); undefined for 1
};

/// The divisor for gradients that are scaled by `scale` and otherwise have the norm `grad_norm`: the scale, times norm
/// / most if the norm exceeds `most`, which is positive. Undefined for 1.
inline Tensor grad_divisor(const Tensor& grad_norm, double scale, double most) {
  if (most <= 0 && scale == 1) return {};
  const Tensor clip = most > 0 ? ((grad_norm + 1e-6) / most).clamp_min(1) : at::ones_like(grad_norm);
  return (clip * scale).to(at::kFloat);
}

/// Calls visit(i, group, slice, value) for each parameter that has a gradient, slice.parameter.grad(). `i` counts all
/// parameters, `value` is the parameter without autograd. As in torch, parameters without a gradient stay unchanged.
template <class Visit>
void visit_gradients(const FlatParameters& parameters, const Visit& visit) {
  std::size_t next = 0;
  for (const FlatGroup& group : parameters.groups)
    for (const FlatSlice& slice : group.slices) {
      const std::size_t i = next++;
      if (slice.parameter.grad().defined()) visit(i, group, slice, slice.view(group.values));
    }
}

/// The gradient for an update without a fused kernel: divided in place by the divisor, plus, in groups with decay, the
/// decay term (in a new tensor).
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

/// Optional: `optimizer.prepare(parameters)` creates missing state for step(). The trainer calls it before the first
/// step, so that this permanent memory is not allocated between temporary blocks of a step.
template <class Optimizer>
concept PreparesState = requires(Optimizer& optimizer, const FlatParameters& parameters) {
  { optimizer.prepare(parameters) } -> std::same_as<void>;
};

namespace detail {

/// Optional: `optimizer.is_elementwise()`, whether the new value of an element depends on its own gradients alone (and
/// on those of its block of 256, counted from the parameter's first). Then a parameter may be cut over ranks, at
/// multiples of FlatParameters::run; otherwise one rank has it whole.
template <class Optimizer>
bool is_elementwise(const Optimizer& optimizer) {
  if constexpr (requires { optimizer.is_elementwise(); }) return optimizer.is_elementwise();
  return false;
}

struct OptimizerHooks {
  int prepare;
};
}  // namespace detail

/// An optimizer that has a member called prepare. It must match the contract above.
template <class Optimizer>
concept NamesPrepare =
    detail::CanBeBase<Optimizer> && !requires { &detail::WithNames<Optimizer, detail::OptimizerHooks>::prepare; };

/// Optional: `optimizer.visit_state(archive)` lists the state for checkpoints; see kto/io/state.hpp. Without it a run
/// cannot be saved.
template <class Optimizer>
concept OptimizerPolicy = UpdatesParameters<Optimizer>;

}  // namespace kto
