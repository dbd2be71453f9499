// SPDX-License-Identifier: Apache-2.0
// x w^T + b with autograd, over the matrix product of matmul.hpp.
#pragma once

#include "kto/nn/weight_grad.hpp"

namespace kto {

// Shapes: N rows, I inputs, O outputs.

namespace detail {

/// x_NI w_OI^T + b_O without autograd; b_O may be undefined.
inline Tensor plain_affine(const WeightUse& use, const Tensor& x_NI, const Tensor& weight_OI, const Tensor& bias_O,
                           bool is_transposed = false) {
  const auto type = x_NI.scalar_type();
  const Tensor cast = use.cast(weight_OI, type);
  return matmul_transposed(x_NI, is_transposed ? cast.t() : cast,
                           bias_O.defined() ? std::optional(use.cast(bias_O, type)) : std::nullopt);
}

/// Its gradients, that of the weight as it is stored; undefined where it was added to the weight's own.
inline Tensor affine_weight_gradient(const WeightUse& use, const Tensor& weight, const Tensor& grad_NO,
                                     const Tensor& x_NI, bool is_transposed) {
  return is_transposed ? use.weight_gradient(weight, x_NI, grad_NO) : use.weight_gradient(weight, grad_NO, x_NI);
}
inline Tensor affine_input_gradient(const WeightUse& use, const Tensor& weight, const Tensor& grad_NO,
                                    at::ScalarType type, bool is_transposed) {
  const Tensor cast = use.cast(weight, type);
  return matmul_transposed(grad_NO, is_transposed ? cast : cast.t());
}
inline Tensor bias_gradient(const WeightUse& use, const Tensor& bias_O, const Tensor& grad_NO) {
  return use.vector_gradient(bias_O, grad_NO.sum(0, false, at::kFloat));
}

/// The weight is [O, I], or [I, O] where `is_transposed`: gradients are of the weight as it is stored.
template <bool is_transposed>
struct Affine : torch::autograd::Function<Affine<is_transposed>> {
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x_NI, const Tensor& weight,
                        const std::optional<Tensor>& bias_O) {
    ctx->save_for_backward({x_NI, weight, bias_O.value_or(Tensor())});
    return plain_affine(WeightUse::in_forward(ctx), x_NI, weight, bias_O.value_or(Tensor()), is_transposed);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const WeightUse use = WeightUse::in_backward(ctx);
    const auto saved = ctx->get_saved_variables();
    const Tensor &x_NI = saved[0], &weight = saved[1], &bias_O = saved[2], &grad_NO = grads[0];
    const auto type = x_NI.scalar_type();
    const bool twice = at::GradMode::is_enabled();  // create_graph: everything with autograd once more
    const auto x_grad = [&] {
      if (!twice) return affine_input_gradient(use, weight, grad_NO, type, is_transposed);
      const Tensor cast = weight.to(type);
      return Affine<false>::apply(grad_NO, is_transposed ? cast : cast.t(), std::nullopt);
    };
    const auto weight_grad = [&] {
      if (!twice) return affine_weight_gradient(use, weight, grad_NO, x_NI, is_transposed);
      const Tensor &left = is_transposed ? x_NI : grad_NO, &right = is_transposed ? grad_NO : x_NI;
      return Affine<false>::apply(left.t(), right.t(), std::nullopt);
    };
    return {ctx->needs_input_grad(0) ? x_grad() : Tensor(), ctx->needs_input_grad(1) ? weight_grad() : Tensor(),
            bias_O.defined() && ctx->needs_input_grad(2) ? use.vector_gradient(bias_O, grad_NO.sum(0)) : Tensor()};
  }
};

}  // namespace detail

/// x_NI w_OI^T + b_O, in x's type whatever that of weight and bias.
inline Tensor affine(const Tensor& x_NI, const Tensor& weight_OI, const std::optional<Tensor>& bias_O = std::nullopt) {
  return detail::Affine<false>::apply(x_NI, weight_OI, bias_O);
}

/// x_NI w_IO + b_O likewise.
inline Tensor affine_transposed(const Tensor& x_NI, const Tensor& weight_IO, const std::optional<Tensor>& bias_O) {
  return detail::Affine<true>::apply(x_NI, weight_IO, bias_O);
}

}  // namespace kto
