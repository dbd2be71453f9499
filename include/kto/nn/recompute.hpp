// SPDX-License-Identifier: Apache-2.0
// Activation recomputation (gradient checkpointing, arXiv:1604.06174): a function keeps only its input for the backward
// pass and runs once more there.
#pragma once

#include <functional>
#include <mutex>
#include <utility>
#include <vector>

#include "kto/nn/weight_grad.hpp"

namespace kto {

namespace detail {

using torch::autograd::variable_list;

/// The state of the generator that LibTorch draws a device's random numbers from.
inline Tensor generator_state(at::Device device) {
  at::Generator generator = at::globalContext().defaultGenerator(device);
  const std::lock_guard lock(generator.mutex());
  return generator.get_state();
}
inline void set_generator_state(at::Device device, const Tensor& state) {
  at::Generator generator = at::globalContext().defaultGenerator(device);
  const std::lock_guard lock(generator.mutex());
  generator.set_state(state);
}

/// work(), which draws from `state` on; the generator then goes on as if there had been no work. One at a time, in
/// whatever threads backward passes run; the program must draw nothing else meanwhile.
template <class Work>
auto with_generator_state(at::Device device, const Tensor& state, const Work& work) {
  static std::mutex mutex;
  const std::lock_guard one_at_a_time(mutex);
  const Tensor now = generator_state(device);
  set_generator_state(device, state);
  const auto out = work();
  set_generator_state(device, now);
  return out;
}

struct RecomputedFunction : torch::CustomClassHolder {
  std::function<variable_list(const Tensor&)> call;
};

struct Recompute : torch::autograd::Function<Recompute> {
  using Function = c10::intrusive_ptr<RecomputedFunction>;

  static variable_list forward(torch::autograd::AutogradContext* ctx, const Function& function, const Tensor& input,
                               at::TensorList parameters, bool draws) {
    WeightUse::in_forward(ctx);
    ctx->saved_data["function"] = c10::IValue::make_capsule(function);
    variable_list saved{input};
    saved.insert(saved.end(), parameters.begin(), parameters.end());
    ctx->save_for_backward(std::move(saved));
    if (!draws) return function->call(input);
    ctx->saved_data["generator"] = generator_state(input.device());
    const at::AutoGradMode with_grad(true);  // what drops only where there is a gradient drops here too
    variable_list outputs = function->call(input.detach());
    for (Tensor& output : outputs) output = output.detach();
    return outputs;
  }

  static variable_list backward(torch::autograd::AutogradContext* ctx, const variable_list& grads) {
    check(!at::GradMode::is_enabled(), "recomputation has no second derivatives: switch it off for create_graph");
    const WeightScope scope(WeightUse::in_backward(ctx));
    const at::AutoGradMode with_grad(true);
    auto inputs = ctx->get_saved_variables();
    const bool input_grad = ctx->needs_input_grad(0);
    const Tensor input = inputs[0].detach().requires_grad_(input_grad);
    inputs[0] = input;
    if (!input_grad) inputs.erase(inputs.begin());
    const auto capsule = ctx->saved_data["function"].toCapsule();
    const auto drawn = ctx->saved_data.find("generator");
    const auto once_more = [&] { return static_cast<RecomputedFunction&>(*capsule).call(input); };
    const variable_list outputs = drawn == ctx->saved_data.end()
                                      ? once_more()
                                      : with_generator_state(input.device(), drawn->second.toTensor(), once_more);
    variable_list differentiable, their_grads;
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (!outputs[i].requires_grad()) continue;
      differentiable.push_back(outputs[i]);
      their_grads.push_back(grads[i]);
    }
    auto out = torch::autograd::grad(differentiable, inputs, their_grads, /*retain_graph=*/false,
                                     /*create_graph=*/false, /*allow_unused=*/true);
    if (!input_grad) out.insert(out.begin(), Tensor());
    out.insert(out.begin(), Tensor());  // of the function
    out.emplace_back();                 // of `draws`
    return out;
  }
};

}  // namespace detail

/// function(input), differentiable in the input and in `parameters`: those tensors with requires_grad that the function
/// uses. The function must give the same result each time, but for what it draws from LibTorch's generator of the
/// input's device: where it `draws`, it draws the same once more. Without grad mode it is simply called.
inline std::vector<Tensor> recomputed(std::function<std::vector<Tensor>(const Tensor&)> function, const Tensor& input,
                                      const std::vector<Tensor>& parameters, bool draws = false) {
  if (!at::GradMode::is_enabled()) return function(input);
  auto held = c10::make_intrusive<detail::RecomputedFunction>();
  held->call = std::move(function);
  return detail::Recompute::apply(held, input, at::TensorList(parameters), draws);
}

}  // namespace kto
