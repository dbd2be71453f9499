// SPDX-License-Identifier: Apache-2.0
// The two blocks of a decoder layer around linear layers. Each is one autograd function that saves what it was given
// and makes the rest once more in the backward pass: a sum, the normed input, the gated product. Where that does not
// serve (an adapter, another device or type) they are the composition that they say they are, which is also their
// oracle.
#pragma once

#include <span>
#include <vector>

#include "kto/nn/gated.hpp"
#include "kto/nn/linear.hpp"
#include "kto/nn/norm.hpp"

namespace kto {

// Shapes: N tokens, D width, O outputs of a linear layer, M intermediate width.

namespace detail {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// The gradient of the bias of a linear layer; undefined where it was added to the bias's own.
inline Tensor bias_gradient(const WeightUse& use, const Tensor& bias_O, const Tensor& grad_NO) {
  return use.vector_gradient(bias_O, grad_NO.sum(0, false, at::kFloat));
}

/// hidden + added in float32; `hidden` is float32, both contiguous.
inline Tensor sum_of(const Tensor& hidden, const Tensor& added) {
  const Tensor sum = at::empty_like(hidden);
  const float* left = hidden.const_data_ptr<float>();
  float* out = sum.mutable_data_ptr<float>();
  visit_type(added.scalar_type(), [&]<class T>(T*) {
    const T* right = added.const_data_ptr<T>();
    vectorized(hidden.numel(), 8192, [=](std::int64_t i, std::int64_t end) {
      for (; i < end; ++i) out[i] = left[i] + load(right[i]);
    });
  });
  return sum;
}

/// Inputs: hidden, norm weight, then (weight, bias or nothing) of each linear layer; `has_bias` says which. Where
/// `adds`, what is added to hidden comes last, and the sum is the first output.
struct NormedLinears : torch::autograd::Function<NormedLinears> {
  static variable_list forward(AutogradContext* ctx, const Tensor& hidden_ND, const Tensor& norm_D,
                               at::TensorList parameters, const std::vector<bool>& has_bias, bool adds, double eps,
                               at::ScalarType type) {
    const WeightUse use = WeightUse::in_forward(ctx);
    const Tensor given_ND = hidden_ND.contiguous();
    const bool keeps_terms = adds && parameters.back().scalar_type() != at::kFloat;
    const Tensor held_ND = adds ? sum_of(given_ND, parameters.back()) : given_ND;
    const Tensor scale_N = at::empty({held_ND.size(0)}, held_ND.options().dtype(at::kFloat));
    const Tensor x_ND = at::empty(held_ND.sizes(), held_ND.options().dtype(type));
    rms_norm_rows(held_ND, use.cast(norm_D, at::kFloat).contiguous(), eps, false, scale_N, x_ND);
    variable_list out, saved{keeps_terms ? given_ND : held_ND, norm_D, scale_N};
    saved.insert(saved.end(), parameters.begin(), parameters.end());
    if (adds && !keeps_terms) saved.back() = Tensor();
    if (adds) out.push_back(held_ND);
    std::size_t next = 0;
    c10::List<bool> biases;
    for (const bool bias : has_bias) {
      out.push_back(plain_affine(use, x_ND, parameters[next], bias ? parameters[next + 1] : Tensor()));
      next += bias ? 2 : 1;
      biases.push_back(bias);
    }
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["biases"] = biases;
    ctx->saved_data["adds"] = adds;
    ctx->saved_data["type"] = static_cast<std::int64_t>(type);
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    check(!at::GradMode::is_enabled(), "the blocks of a decoder have no second derivatives on the CPU in float32");
    const WeightUse use = WeightUse::in_backward(ctx);
    const auto saved = ctx->get_saved_variables();
    const bool adds = ctx->saved_data["adds"].toBool();
    const Tensor added_ND = adds ? saved.back() : Tensor();
    const Tensor hidden_ND = added_ND.defined() ? sum_of(saved[0], added_ND) : saved[0];
    const Tensor &norm_D = saved[1], &scale_N = saved[2];
    const auto type = static_cast<at::ScalarType>(ctx->saved_data["type"].toInt());
    const auto biases = ctx->saved_data["biases"].toBoolList();
    const Tensor weight_D = use.cast(norm_D, at::kFloat).contiguous();
    const Tensor x_ND = at::empty(hidden_ND.sizes(), hidden_ND.options().dtype(type));
    rms_norm_rows(hidden_ND, weight_D, 0, true, scale_N, x_ND);

    const std::size_t last = 2 + saved.size() - 3 - 1;  // of the inputs that are tensors
    const bool input_wanted =
        ctx->needs_input_grad(0) || ctx->needs_input_grad(1) || (adds && ctx->needs_input_grad(last));
    variable_list out(last + 1 + 4);
    Tensor grad_x_ND;
    std::size_t next = 0;
    for (std::size_t i = 0; i < biases.size(); ++i) {
      const bool bias = biases.get(i);
      const Tensor &weight_OD = saved[3 + next], &grad = grads[i + (adds ? 1 : 0)];
      if (grad.defined()) {
        const Tensor grad_NO = grad.contiguous();
        if (ctx->needs_input_grad(2 + next)) out[2 + next] = use.weight_gradient(weight_OD, grad_NO, x_ND);
        if (bias && ctx->needs_input_grad(3 + next)) out[3 + next] = bias_gradient(use, saved[4 + next], grad_NO);
        if (input_wanted) {
          const Tensor cast_OD = use.cast(weight_OD, type);
          if (!grad_x_ND.defined())
            grad_x_ND = matmul_transposed(grad_NO, cast_OD.t());
          else
            add_product(grad_x_ND, grad_NO, cast_OD);
        }
      }
      next += bias ? 2 : 1;
    }
    const Tensor residual_ND = adds && grads[0].defined() ? grads[0].contiguous() : Tensor();
    if (grad_x_ND.defined()) {
      const bool norm_wanted = ctx->needs_input_grad(1);
      const auto norm = rms_norm_backward(grad_x_ND, hidden_ND, weight_D, scale_N, norm_wanted, residual_ND);
      out[0] = norm.x;
      if (norm_wanted) out[1] = use.vector_gradient(norm_D, norm.weight_D);
    } else {
      out[0] = residual_ND;
    }
    if (adds && out[0].defined()) out[last] = added_ND.defined() ? out[0].to(added_ND.scalar_type()) : out[0];
    return out;
  }
};

struct GatedDown : torch::autograd::Function<GatedDown> {
  static Tensor forward(AutogradContext* ctx, const Tensor& gate_NM, const Tensor& up_NM, const Tensor& weight_DM,
                        const std::optional<Tensor>& bias_D) {
    const WeightUse use = WeightUse::in_forward(ctx);
    const Tensor gate = gate_NM.contiguous(), up = up_NM.contiguous();
    ctx->save_for_backward({gate, up, weight_DM, bias_D.value_or(Tensor())});
    return plain_affine(use, silu_gated(gate, up), weight_DM, bias_D.value_or(Tensor()));
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    check(!at::GradMode::is_enabled(), "the blocks of a decoder have no second derivatives on the CPU in float32");
    const WeightUse use = WeightUse::in_backward(ctx);
    const auto saved = ctx->get_saved_variables();
    const Tensor &gate_NM = saved[0], &up_NM = saved[1], &weight_DM = saved[2], &bias_D = saved[3];
    const Tensor grad_ND = grads[0].contiguous();
    const bool weight_wanted = ctx->needs_input_grad(2);
    const Tensor grad_NM = matmul_transposed(grad_ND, use.cast(weight_DM, gate_NM.scalar_type()).t());
    const GatedGrads gated = silu_gated_backward(grad_NM, gate_NM, up_NM, weight_wanted);
    return {gated.gate_NM, gated.up_NM,
            weight_wanted ? use.weight_gradient(weight_DM, grad_ND, gated.out_NM) : Tensor(),
            bias_D.defined() && ctx->needs_input_grad(3) ? bias_gradient(use, bias_D, grad_ND) : Tensor()};
  }
};

}  // namespace detail

namespace detail {

inline bool takes_normed_linears(const Tensor& hidden_ND, at::ScalarType type,
                                 const std::vector<const Linear*>& linears) {
  const bool others =
      std::ranges::any_of(linears, [](const Linear* linear) { return linear->lora || linear->is_transposed; });
  return !others && takes_vectorized(hidden_ND) && takes_vectorized(type) && hidden_ND.numel() > 0;
}

inline std::vector<Tensor> apply_normed_linears(const Tensor& hidden_ND, const Tensor& norm_D, double eps,
                                                at::ScalarType type, const std::vector<const Linear*>& linears,
                                                const Tensor& added_ND) {
  std::vector<Tensor> parameters;
  std::vector<bool> has_bias;
  for (const Linear* linear : linears) {
    parameters.push_back(linear->weight_OI);
    has_bias.push_back(linear->bias_O.defined());
    if (has_bias.back()) parameters.push_back(linear->bias_O);
  }
  if (added_ND.defined()) parameters.push_back(added_ND);
  return NormedLinears::apply(hidden_ND, norm_D, at::TensorList(parameters), has_bias, added_ND.defined(), eps, type);
}

}  // namespace detail

/// linear(rms_norm(hidden_ND)) for each of `linears`; products in `type`.
inline std::vector<Tensor> normed_linears(const Tensor& hidden_ND, const Tensor& norm_D, double eps,
                                          at::ScalarType type, const std::vector<const Linear*>& linears) {
  if (detail::takes_normed_linears(hidden_ND, type, linears))
    return detail::apply_normed_linears(hidden_ND, norm_D, eps, type, linears, {});
  return apply_each(linears, rms_norm(hidden_ND, norm_D, eps, type));
}

/// The sum hidden_ND + added_ND, and then normed_linears of it. Where added_ND is of a narrower type, both terms are
/// kept for the backward pass in place of the sum: hidden_ND is there anyway, and added_ND takes half of what the sum
/// does.
inline std::vector<Tensor> add_normed_linears(const Tensor& hidden_ND, const Tensor& added_ND, const Tensor& norm_D,
                                              double eps, at::ScalarType type,
                                              const std::vector<const Linear*>& linears) {
  if (hidden_ND.scalar_type() == at::kFloat && takes_vectorized(added_ND) &&
      detail::takes_normed_linears(hidden_ND, type, linears))
    return detail::apply_normed_linears(hidden_ND, norm_D, eps, type, linears, added_ND.contiguous());
  std::vector<Tensor> out{hidden_ND + added_ND};
  for (Tensor& linear : normed_linears(out[0], norm_D, eps, type, linears)) out.push_back(std::move(linear));
  return out;
}

/// down(activation(gate) * up).
inline Tensor gated_down(Activation activation, const Tensor& gate_NM, const Tensor& up_NM, const Linear& down) {
  if (down.lora || down.is_transposed || !detail::takes_gated_kernel(activation, gate_NM))
    return down(gated(activation, gate_NM, up_NM));
  return detail::GatedDown::apply(gate_NM, up_NM, down.weight_OI,
                                  down.bias_O.defined() ? std::optional(down.bias_O) : std::nullopt);
}

}  // namespace kto
