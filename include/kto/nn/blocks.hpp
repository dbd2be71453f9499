// SPDX-License-Identifier: Apache-2.0
// The two blocks of a decoder layer around linear layers. Each is one autograd function that saves what it was given
// and makes the rest once more in the backward pass: a sum, the normed input, the activated product. Where that does
// not serve (an adapter, another device or type) they are the composition that they say they are, which is also their
// oracle.
#pragma once

#include <vector>

#include "kto/nn/gated.hpp"
#include "kto/nn/linear.hpp"
#include "kto/nn/norm.hpp"

namespace kto {

// Shapes: N tokens, D width, O outputs of a linear layer, M intermediate width.

namespace detail {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// hidden + added in float32; `hidden` is float32, both contiguous.
template <class = void>
Tensor sum_of(const Tensor& hidden, const Tensor& added) {
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
KTO_COMPILED_ONCE(Tensor sum_of<>(const Tensor&, const Tensor&));

/// What NormedLinears computes: linear(norm(hidden)), or of hidden + added where it `adds`, with products in `type`.
struct NormedPlan {
  struct Layer {
    bool has_bias, is_transposed;
  };
  NormSpec norm;
  std::vector<Layer> layers;
  bool adds;
  at::ScalarType type;
};

/// The parameters are the norm's weight and bias, where it has them, then (weight, bias or nothing) of each linear
/// layer. Where the plan adds, what is added to hidden comes last, and the sum is the first output.
struct NormedLinears : torch::autograd::Function<NormedLinears> {
  static Norm norm_of(const NormSpec& spec, at::TensorList parameters) {
    return {spec.has_weight ? parameters[0] : Tensor(), spec.has_bias ? parameters[spec.has_weight ? 1 : 0] : Tensor()};
  }
  static std::size_t first_layer(const NormSpec& spec) {
    return static_cast<std::size_t>(spec.has_weight) + static_cast<std::size_t>(spec.has_bias);
  }

  static variable_list forward(AutogradContext* ctx, const Tensor& hidden_ND, at::TensorList parameters,
                               const NormedPlan& plan) {
    const WeightUse use = WeightUse::in_forward(ctx);
    const Tensor given_ND = hidden_ND.contiguous();
    const bool keeps_terms = plan.adds && parameters.back().scalar_type() != at::kFloat;
    const Tensor held_ND = plan.adds ? sum_of(given_ND, parameters.back()) : given_ND;
    const NormNumbers norm(plan.norm, norm_of(plan.norm, parameters), use, held_ND);
    const Tensor statistics_SN = empty_statistics(norm, held_ND);
    const Tensor x_ND = at::empty(held_ND.sizes(), held_ND.options().dtype(plan.type));
    norm_rows(held_ND, norm, false, statistics_SN, x_ND);
    variable_list out, saved{keeps_terms ? given_ND : held_ND, statistics_SN};
    saved.insert(saved.end(), parameters.begin(), parameters.end());
    if (plan.adds && !keeps_terms) saved.back() = Tensor();
    if (plan.adds) out.push_back(held_ND);
    std::size_t next = first_layer(plan.norm);
    for (const auto& layer : plan.layers) {
      out.push_back(plain_affine(use, x_ND, parameters[next], layer.has_bias ? parameters[next + 1] : Tensor(),
                                 layer.is_transposed));
      next += layer.has_bias ? 2 : 1;
    }
    ctx->save_for_backward(std::move(saved));
    keep(ctx, "plan", plan);
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    check(!at::GradMode::is_enabled(), "the blocks of a decoder have no second derivatives on the CPU in float32");
    const WeightUse use = WeightUse::in_backward(ctx);
    const auto& plan = *kept<NormedPlan>(ctx, "plan");
    const auto saved = ctx->get_saved_variables();
    const auto parameters = at::TensorList(saved).slice(2);
    const std::size_t last = parameters.size();  // of the inputs that are tensors: hidden, then the parameters
    const Tensor added_ND = plan.adds ? parameters.back() : Tensor();
    const Tensor hidden_ND = added_ND.defined() ? sum_of(saved[0], added_ND) : saved[0];
    const Norm own = norm_of(plan.norm, parameters);
    const NormNumbers norm(plan.norm, own, use, hidden_ND);
    const Tensor& statistics_SN = saved[1];
    const Tensor x_ND = at::empty(hidden_ND.sizes(), hidden_ND.options().dtype(plan.type));
    norm_rows(hidden_ND, norm, true, statistics_SN, x_ND);

    const std::size_t bias_at = plan.norm.has_weight ? 2 : 1;
    const bool weight_wanted = plan.norm.has_weight && ctx->needs_input_grad(1),
               bias_wanted = plan.norm.has_bias && ctx->needs_input_grad(bias_at);
    const bool input_wanted =
        ctx->needs_input_grad(0) || weight_wanted || bias_wanted || (plan.adds && ctx->needs_input_grad(last));
    variable_list out(last + 1 + 1);
    Tensor grad_x_ND;
    std::size_t next = first_layer(plan.norm);
    for (std::size_t i = 0; i < plan.layers.size(); ++i) {
      const auto [has_bias, is_transposed] = plan.layers[i];
      const Tensor &weight = parameters[next], &grad = grads[i + (plan.adds ? 1 : 0)];
      if (grad.defined()) {
        const Tensor grad_NO = grad.contiguous();
        if (ctx->needs_input_grad(1 + next))
          out[1 + next] = affine_weight_gradient(use, weight, grad_NO, x_ND, is_transposed);
        if (has_bias && ctx->needs_input_grad(2 + next))
          out[2 + next] = bias_gradient(use, parameters[next + 1], grad_NO);
        if (input_wanted && !grad_x_ND.defined()) {
          grad_x_ND = affine_input_gradient(use, weight, grad_NO, plan.type, is_transposed);
        } else if (input_wanted) {
          const Tensor cast = use.cast(weight, plan.type);
          add_product(grad_x_ND, grad_NO, is_transposed ? cast.t() : cast);
        }
      }
      next += has_bias ? 2 : 1;
    }
    const Tensor residual_ND = plan.adds && grads[0].defined() ? grads[0].contiguous() : Tensor();
    if (grad_x_ND.defined()) {
      const auto of_norm =
          norm_backward(grad_x_ND, hidden_ND, norm, statistics_SN, weight_wanted, bias_wanted, residual_ND);
      out[0] = of_norm.x;
      if (weight_wanted) out[1] = use.vector_gradient(own.weight_D, of_norm.weight_HD);
      if (bias_wanted) out[bias_at] = use.vector_gradient(own.bias_D, of_norm.bias_D);
    } else {
      out[0] = residual_ND;
    }
    if (plan.adds && out[0].defined()) out[last] = added_ND.defined() ? out[0].to(added_ND.scalar_type()) : out[0];
    return out;
  }
};

struct GatedDown : torch::autograd::Function<GatedDown> {
  static Tensor forward(AutogradContext* ctx, const Tensor& gate, const std::optional<Tensor>& up_NM,
                        const Tensor& weight_DM, const std::optional<Tensor>& bias_D, const GatePlan& plan,
                        bool is_transposed) {
    const WeightUse use = WeightUse::in_forward(ctx);
    const Gates gates = contiguous_gates({gate, up_NM.value_or(Tensor()), plan.side_by_side});
    const Tensor bias = bias_D.value_or(Tensor());
    ctx->save_for_backward({gates.gate, gates.up, weight_DM, bias});
    keep(ctx, "plan", plan);
    ctx->saved_data["is_transposed"] = is_transposed;
    return plain_affine(use, gated_rows(plan.activation, gates), weight_DM, bias, is_transposed);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    check(!at::GradMode::is_enabled(), "the blocks of a decoder have no second derivatives on the CPU in float32");
    const WeightUse use = WeightUse::in_backward(ctx);
    const auto saved = ctx->get_saved_variables();
    const auto& plan = *kept<GatePlan>(ctx, "plan");
    const bool is_transposed = ctx->saved_data["is_transposed"].toBool();
    const Gates gates{saved[0], saved[1], plan.side_by_side};
    const Tensor &weight_DM = saved[2], &bias_D = saved[3], grad_ND = grads[0].contiguous();
    const std::size_t weight_at = gates.up.defined() ? 2 : 1;
    const bool weight_wanted = ctx->needs_input_grad(weight_at);
    const Tensor grad_NM = affine_input_gradient(use, weight_DM, grad_ND, gates.gate.scalar_type(), is_transposed);
    const GatedGrads gated = gated_rows_backward(plan.activation, grad_NM, gates, weight_wanted);
    return {gated.gate,
            gated.up,
            weight_wanted ? affine_weight_gradient(use, weight_DM, grad_ND, gated.out_NM, is_transposed) : Tensor(),
            bias_D.defined() && ctx->needs_input_grad(weight_at + 1) ? bias_gradient(use, bias_D, grad_ND) : Tensor(),
            {},
            {}};
  }
};

inline bool takes_normed_linears(const Tensor& hidden_ND, at::ScalarType type,
                                 const std::vector<const Linear*>& linears) {
  const bool adapted = std::ranges::any_of(linears, [](const Linear* linear) { return linear->lora.has_value(); });
  return !adapted && hidden_ND.is_cpu() && takes_vectorized(hidden_ND.scalar_type(), type) && hidden_ND.numel() > 0;
}

inline std::vector<Tensor> apply_normed_linears(const Tensor& hidden_ND, const NormSpec& spec, const Norm& norm,
                                                at::ScalarType type, const std::vector<const Linear*>& linears,
                                                const Tensor& added_ND) {
  std::vector<Tensor> parameters;
  if (spec.has_weight) parameters.push_back(norm.weight_D);
  if (spec.has_bias) parameters.push_back(norm.bias_D);
  NormedPlan plan{.norm = spec, .layers = {}, .adds = added_ND.defined(), .type = type};
  for (const Linear* linear : linears) {
    parameters.push_back(linear->weight_OI);
    plan.layers.push_back({linear->bias_O.defined(), linear->is_transposed});
    if (linear->bias_O.defined()) parameters.push_back(linear->bias_O);
  }
  if (added_ND.defined()) parameters.push_back(added_ND);
  return NormedLinears::apply(hidden_ND, at::TensorList(parameters), plan);
}

}  // namespace detail

/// linear(normalized(hidden_ND)) for each of `linears`; products in `type`.
inline std::vector<Tensor> normed_linears(const Tensor& hidden_ND, const NormSpec& spec, const Norm& norm,
                                          at::ScalarType type, const std::vector<const Linear*>& linears) {
  if (detail::takes_normed_linears(hidden_ND, type, linears))
    return detail::apply_normed_linears(hidden_ND, spec, norm, type, linears, {});
  return apply_each(linears, normalized(spec, norm, hidden_ND, type));
}

/// The sum hidden_ND + added_ND, and then normed_linears of it. Where added_ND is of a narrower type, both terms are
/// kept for the backward pass in place of the sum: hidden_ND is there anyway, and added_ND takes half of what the sum
/// does.
inline std::vector<Tensor> add_normed_linears(const Tensor& hidden_ND, const Tensor& added_ND, const NormSpec& spec,
                                              const Norm& norm, at::ScalarType type,
                                              const std::vector<const Linear*>& linears) {
  if (hidden_ND.scalar_type() == at::kFloat && takes_vectorized(added_ND) &&
      detail::takes_normed_linears(hidden_ND, type, linears))
    return detail::apply_normed_linears(hidden_ND, spec, norm, type, linears, added_ND.contiguous());
  std::vector<Tensor> out{hidden_ND + added_ND};
  for (Tensor& linear : normed_linears(out[0], spec, norm, type, linears)) out.push_back(std::move(linear));
  return out;
}

/// down(gated(activation, gates)).
inline Tensor gated_down(Activation activation, const Gates& gates, const Linear& down) {
  if (down.lora || !detail::takes_gated_kernel(gates)) return down(gated(activation, gates));
  return detail::GatedDown::apply(gates.gate, gates.up.defined() ? std::optional(gates.up) : std::nullopt,
                                  down.weight_OI, down.bias_O.defined() ? std::optional(down.bias_O) : std::nullopt,
                                  detail::GatePlan{activation, gates.side_by_side}, down.is_transposed);
}

}  // namespace kto
