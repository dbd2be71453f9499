// SPDX-License-Identifier: Apache-2.0
// x w^T + b with autograd, over the matrix product of matmul.hpp.
#pragma once

#include "kto/nn/weight_grad.hpp"

namespace kto {

// Shapes: N rows, I inputs, O outputs.

namespace detail {

/// x_NI w_OI^T + b_O without autograd; b_O may be undefined.
inline Tensor plain_affine(const WeightUse& use, const Tensor& x_NI, const Tensor& weight_OI, const Tensor& bias_O) {
  const auto type = x_NI.scalar_type();
  return matmul_transposed(x_NI, use.cast(weight_OI, type),
                           bias_O.defined() ? std::optional(use.cast(bias_O, type)) : std::nullopt);
}

struct Affine : torch::autograd::Function<Affine> {
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x_NI, const Tensor& weight_OI,
                        const std::optional<Tensor>& bias_O) {
    ctx->save_for_backward({x_NI, weight_OI, bias_O.value_or(Tensor())});
    return plain_affine(WeightUse::in_forward(ctx), x_NI, weight_OI, bias_O.value_or(Tensor()));
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const WeightUse use = WeightUse::in_backward(ctx);
    const auto saved = ctx->get_saved_variables();
    const Tensor &x_NI = saved[0], &weight_OI = saved[1], &bias_O = saved[2], &grad_NO = grads[0];
    const auto type = x_NI.scalar_type();
    const bool twice = at::GradMode::is_enabled();  // create_graph: everything with autograd once more
    const auto x_grad = [&] {
      return apply(grad_NO, (twice ? weight_OI.to(type) : use.cast(weight_OI, type)).t(), std::nullopt);
    };
    const auto weight_grad = [&] {
      return twice ? apply(grad_NO.t(), x_NI.t(), std::nullopt) : use.weight_gradient(weight_OI, grad_NO, x_NI);
    };
    return {ctx->needs_input_grad(0) ? x_grad() : Tensor(), ctx->needs_input_grad(1) ? weight_grad() : Tensor(),
            bias_O.defined() && ctx->needs_input_grad(2) ? use.vector_gradient(bias_O, grad_NO.sum(0)) : Tensor()};
  }
};

/// Affine with a weight that is stored as [I, O].
struct AffineTransposed : torch::autograd::Function<AffineTransposed> {
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x_NI, const Tensor& weight_IO,
                        const std::optional<Tensor>& bias_O) {
    ctx->save_for_backward({x_NI, weight_IO, bias_O.value_or(Tensor())});
    const WeightUse use = WeightUse::in_forward(ctx);
    const auto type = x_NI.scalar_type();
    return matmul_transposed(x_NI, use.cast(weight_IO, type).t(),
                             bias_O ? std::optional(use.cast(*bias_O, type)) : std::nullopt);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const WeightUse use = WeightUse::in_backward(ctx);
    const auto saved = ctx->get_saved_variables();
    const Tensor &x_NI = saved[0], &weight_IO = saved[1], &bias_O = saved[2], &grad_NO = grads[0];
    const auto type = x_NI.scalar_type();
    const bool twice = at::GradMode::is_enabled();
    const auto x_grad = [&] {
      return Affine::apply(grad_NO, twice ? weight_IO.to(type) : use.cast(weight_IO, type), std::nullopt);
    };
    const auto weight_grad = [&] {
      return twice ? Affine::apply(x_NI.t(), grad_NO.t(), std::nullopt) : use.weight_gradient(weight_IO, x_NI, grad_NO);
    };
    return {ctx->needs_input_grad(0) ? x_grad() : Tensor(), ctx->needs_input_grad(1) ? weight_grad() : Tensor(),
            bias_O.defined() && ctx->needs_input_grad(2) ? use.vector_gradient(bias_O, grad_NO.sum(0)) : Tensor()};
  }
};

}  // namespace detail

/// x_NI w_OI^T + b_O, in x's type whatever that of weight and bias.
inline Tensor affine(const Tensor& x_NI, const Tensor& weight_OI, const std::optional<Tensor>& bias_O = std::nullopt) {
  return detail::Affine::apply(x_NI, weight_OI, bias_O);
}

/// x_NI w_IO + b_O likewise.
inline Tensor affine_transposed(const Tensor& x_NI, const Tensor& weight_IO, const std::optional<Tensor>& bias_O) {
  return detail::AffineTransposed::apply(x_NI, weight_IO, bias_O);
}

}  // namespace kto
