// SPDX-License-Identifier: Apache-2.0
// Activation recomputation (gradient checkpointing, arXiv:1604.06174): a function keeps only its input for the backward
// pass and runs once more there.
#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "kto/core/torch.hpp"

namespace kto {

namespace detail {

struct RecomputedFunction : torch::CustomClassHolder {
  std::function<Tensor(const Tensor&)> call;
};

struct Recompute : torch::autograd::Function<Recompute> {
  using Function = c10::intrusive_ptr<RecomputedFunction>;

  static Tensor forward(torch::autograd::AutogradContext* ctx, const Function& function, const Tensor& input,
                        at::TensorList parameters) {
    ctx->saved_data["function"] = c10::IValue::make_capsule(function);
    torch::autograd::variable_list saved{input};
    saved.insert(saved.end(), parameters.begin(), parameters.end());
    ctx->save_for_backward(std::move(saved));
    return function->call(input);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    check(!at::GradMode::is_enabled(), "recomputation has no second derivatives: switch it off for create_graph");
    const at::AutoGradMode with_grad(true);
    auto inputs = ctx->get_saved_variables();
    const bool input_grad = ctx->needs_input_grad(0);
    const Tensor input = inputs[0].detach().requires_grad_(input_grad);
    inputs[0] = input;
    if (!input_grad) inputs.erase(inputs.begin());
    const auto capsule = ctx->saved_data["function"].toCapsule();
    const Tensor output = static_cast<RecomputedFunction&>(*capsule).call(input);
    auto out = torch::autograd::grad({output}, inputs, {grads[0]}, /*retain_graph=*/false, /*create_graph=*/false,
                                     /*allow_unused=*/true);
    if (!input_grad) out.insert(out.begin(), Tensor());
    out.insert(out.begin(), Tensor());  // of the function
    return out;
  }
};

}  // namespace detail

/// function(input), differentiable in the input and in `parameters`: those tensors with requires_grad that the function
/// uses. The function must give the same result each time. Without grad mode it is simply called.
inline Tensor recomputed(std::function<Tensor(const Tensor&)> function, const Tensor& input,
                         const std::vector<Tensor>& parameters) {
  if (!at::GradMode::is_enabled()) return function(input);
  auto held = c10::make_intrusive<detail::RecomputedFunction>();
  held->call = std::move(function);
  return detail::Recompute::apply(held, input, at::TensorList(parameters));
}

}  // namespace kto
