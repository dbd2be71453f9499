// SPDX-License-Identifier: Apache-2.0
// The experts of a layer: each token goes through some of them, and its output is the weighted sum of theirs
// (arXiv:1701.06538). Tokens are sorted by expert, and each expert makes one product from all of its tokens. One
// autograd function that saves the first products and makes the rest once more in the backward pass.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "kto/nn/affine.hpp"
#include "kto/nn/expert_gate.hpp"
#include "kto/nn/expert_rows.hpp"
#include "kto/nn/gated.hpp"

namespace kto {

// Shapes: N tokens, K experts of a token, S = N K rows sorted by expert, n rows of a block, E experts, D width,
// M intermediate width of an expert.

/// The weights of all experts, each linear layer as one tensor.
struct Experts {
  Tensor gate_up;          ///< [E, 2M, D], or [E, D, 2M] where is_transposed
  Tensor down;             ///< [E, D, M], or [E, M, D]
  Tensor gate_up_bias_EO;  ///< [E, 2M]; undefined without biases
  Tensor down_bias_ED;
  bool is_transposed = false;
};

namespace detail {

/// An expert's first product [n, 2M] as an MLP's.
inline Gates expert_gates(const ExpertGate& gate, const Tensor& both_nO) {
  if (!gate.is_interleaved) return {.gate = both_nO, .side_by_side = true};
  return {both_nO.slice(1, 0, std::nullopt, 2), both_nO.slice(1, 1, std::nullopt, 2)};
}

inline bool takes_expert_kernel(const ExpertGate& gate, const Tensor& both_nO) {
  return !gate.is_clamped && takes_gated_kernel({both_nO});
}

}  // namespace detail

/// The input of an expert's second product [n, M] from its first product [n, 2M], from LibTorch's operators.
inline Tensor expert_gated_composed(const ExpertGate& gate, const Tensor& both_nO) {
  const Gates gates = detail::expert_gates(gate, both_nO);
  if (!gate.is_clamped) return gated_composed(gate.activation, gates);
  check(gates.up.defined(), "a clamped gate and its up are interleaved");
  const Tensor clamped_nM = gates.gate.clamp_max(gate.limit);
  return (gates.up.clamp(-gate.limit, gate.limit) + 1) * clamped_nM * at::sigmoid(clamped_nM * gate.alpha);
}

namespace detail {

inline Tensor expert_gated(const ExpertGate& gate, const Tensor& both_nO) {
  if (!takes_expert_kernel(gate, both_nO)) return expert_gated_composed(gate, both_nO);
  return gated_rows(gate.activation, contiguous_gates(expert_gates(gate, both_nO)));
}

struct ExpertGatedGrads {
  Tensor both_nO;
  Tensor out_nM;  ///< the gated product once more
};

/// The gradient of an expert's first product from that of the gated one.
inline ExpertGatedGrads expert_gated_backward(const ExpertGate& gate, const Tensor& grad_nM, const Tensor& both_nO) {
  if (takes_expert_kernel(gate, both_nO)) {
    const Gates gates = contiguous_gates(expert_gates(gate, both_nO));
    const GatedGrads grads = gated_rows_backward(gate.activation, grad_nM.contiguous(), gates, true);
    if (!gate.is_interleaved) return {grads.gate, grads.out_NM};
    return {at::stack({grads.gate, grads.up}, 2).flatten(1), grads.out_NM};
  }
  const at::AutoGradMode with_grad(true);
  const Tensor leaf_nO = both_nO.detach().requires_grad_();
  const Tensor out_nM = expert_gated_composed(gate, leaf_nO);
  return {torch::autograd::grad({out_nM}, {leaf_nO}, {grad_nM})[0], out_nM.detach()};
}

/// The weights of all experts: two linear layers' weights, then their biases, or nothing.
struct ExpertTensors {
  at::TensorList all;

  const Tensor& gate_up() const { return all[0]; }
  const Tensor& down() const { return all[1]; }
  Tensor gate_up_bias() const { return all.size() > 2 ? all[2] : Tensor(); }
  Tensor down_bias() const { return all.size() > 2 ? all[3] : Tensor(); }
};

/// Products of a block's rows, each with its expert's weight.
struct ExpertProduct {
  const WeightUse& use;
  const ExpertRows& rows;
  bool is_transposed;  ///< the weights are [inputs, outputs]

  /// x_nI w^T + b; the bias may be undefined.
  Tensor operator()(const ExpertBlock& block, const Tensor& x_nI, const Tensor& weight, const Tensor& bias_EO) const {
    return product(block, x_nI, weight, is_transposed, bias_EO);
  }
  /// The gradient of x.
  Tensor backward(const ExpertBlock& block, const Tensor& grad_nO, const Tensor& weight) const {
    return product(block, grad_nO, weight, !is_transposed, {});
  }
  /// What the bias adds to the gradient of each row's weight in its token's sum.
  Tensor with_bias(const ExpertBlock& block, const Tensor& grad_nO, const Tensor& bias_EO) const {
    const Tensor bias = of_block(block, bias_EO, grad_nO.scalar_type());
    return block.expert ? at::mv(grad_nO, bias) : (grad_nO * bias).sum(1);
  }

 private:
  /// A bias as it is added to the block's rows.
  Tensor of_block(const ExpertBlock& block, const Tensor& bias_EO, at::ScalarType type) const {
    const Tensor held = bias_EO.detach();
    return block.expert ? held.select(0, *block.expert).to(type) : held.to(type).index_select(0, rows.expert_S);
  }
  Tensor product(const ExpertBlock& block, const Tensor& x, const Tensor& weight, bool transposed,
                 const Tensor& bias_EO) const {
    const auto type = x.scalar_type();
    const auto bias = bias_EO.defined() ? std::optional(of_block(block, bias_EO, type)) : std::nullopt;
    if (!block.expert) {
      const Tensor all = use.cast(weight, type);
      const Tensor out = rows_product(rows, x.contiguous(), transposed ? all : all.transpose(1, 2));
      return bias ? out + *bias : out;
    }
    const Tensor held = use.casts ? use.cast(weight, type) : weight.detach();
    const Tensor one = held.select(0, *block.expert).to(type);
    return matmul_transposed(x, transposed ? one.t() : one, bias);
  }
};

/// The gradient of a tensor of all experts, made block by block, each once; what has no rows gets zeros.
class ExpertGradient {
 public:
  ExpertGradient(const WeightUse& use, const Tensor& weight, bool wanted, const ExpertRows& rows)
      : rows_(rows),
        weight_(weight),
        wanted_(wanted),
        in_place_(wanted && use.adds_gradient_of(weight)),
        adds_(in_place_ && weight.grad().defined()) {}
  explicit operator bool() const { return wanted_; }

  /// Each expert's part is, or grows by, a^T b of its rows.
  void take_product(const ExpertBlock& block, const Tensor& a_nO, const Tensor& b_nI) {
    if (block.expert) return put_product(*block.expert, a_nO.t(), b_nI);
    if (takes_grouped_product(a_nO.t(), b_nI, weight_.size(0)))
      return put_all(grouped_product(a_nO.t(), b_nI, rows_.end_E));
    visit_experts(rows_, [&](std::int64_t expert, std::int64_t begin, std::int64_t n) {
      if (n > 0) put_product(expert, a_nO.narrow(0, begin, n).t(), b_nI.narrow(0, begin, n));
    });
  }
  /// Likewise the sum of its rows, times weight_n where that is defined; in `wide`.
  void take_sum(const ExpertBlock& block, const Tensor& rows_nO, at::ScalarType wide, const Tensor& weight_n = {}) {
    if (!block.expert) {
      const Tensor scaled_nO = weight_n.defined() ? rows_nO * weight_n.unsqueeze(1) : rows_nO;
      const Tensor sums = at::zeros(weight_.sizes(), rows_nO.options().dtype(wide));
      return put_all(sums.index_add_(0, rows_.expert_S, scaled_nO.to(wide)));
    }
    const Tensor part = grad().select(0, *block.expert),
                 sum_O = weight_n.defined() ? at::mv(rows_nO.t(), weight_n.to(wide)) : rows_nO.sum(0, false, wide);
    if (!adds_) return void(part.copy_(sum_O));
    const auto lock = lock_gradient(weight_);
    part.add_(sum_O);
  }
  /// The gradient; undefined where it was added to the weight's own.
  Tensor take() {
    if (!wanted_ || !in_place_) return wanted_ ? grad() : Tensor();
    if (adds_) return {};
    const auto lock = lock_gradient(weight_);
    if (weight_.grad().defined())
      weight_.grad().add_(grad());
    else
      weight_.mutable_grad() = grad();
    return {};
  }

 private:
  Tensor& grad() {
    if (grad_.defined()) return grad_;
    if (adds_) return grad_ = weight_.grad();
    grad_ = at::empty_like(weight_.detach());
    visit_experts(rows_, [&](std::int64_t expert, std::int64_t, std::int64_t n) {
      if (n == 0) grad_.select(0, expert).zero_();
    });
    return grad_;
  }
  void put_product(std::int64_t expert, const Tensor& a_On, const Tensor& b_nI) {
    const Tensor part = grad().select(0, expert);
    if (!adds_) return void(part.copy_(matmul_transposed(a_On, b_nI.t())));
    const auto lock = lock_gradient(weight_);
    add_product(part, a_On, b_nI);
  }
  void put_all(const Tensor& all) {
    if (!adds_) return void(grad_ = all.to(weight_.scalar_type()));
    const auto lock = lock_gradient(weight_);
    grad().add_(all);
  }

  const ExpertRows& rows_;
  Tensor weight_;
  bool wanted_, in_place_, adds_;
  Tensor grad_;
};

struct ExpertsFunction : torch::autograd::Function<ExpertsFunction> {
  struct Options : torch::CustomClassHolder {
    ExpertGate gate;
    bool is_transposed = false;
    c10::intrusive_ptr<ExpertRows> rows;
  };

  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x_ND, const Tensor& weight_S,
                        at::TensorList parameters, const c10::intrusive_ptr<Options>& options) {
    const WeightUse use = WeightUse::in_forward(ctx);
    const ExpertRows& rows = *options->rows;
    const ExpertProduct product{use, rows, options->is_transposed};
    const Tensor out_ND = at::zeros(x_ND.sizes(), x_ND.options().dtype(wide_type(x_ND.scalar_type())));
    torch::autograd::variable_list saved{x_ND, weight_S};
    saved.insert(saved.end(), parameters.begin(), parameters.end());
    const ExpertTensors experts{parameters};
    visit_blocks(rows, [&](const ExpertBlock& block) {
      const Tensor x_nD = x_ND.index_select(0, rows.token_S.narrow(0, block.begin, block.size)),
                   both_nO = product(block, x_nD, experts.gate_up(), experts.gate_up_bias()),
                   out_nD = product(block, expert_gated(options->gate, both_nO), experts.down(), experts.down_bias());
      add_to_tokens(rows, block, out_ND, out_nD, weight_S.narrow(0, block.begin, block.size));
      saved.push_back(both_nO);
    });
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["num_parameters"] = static_cast<std::int64_t>(parameters.size());
    ctx->saved_data["options"] = c10::IValue::make_capsule(options);
    return out_ND;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    check(!at::GradMode::is_enabled(), "experts have no second derivatives");
    const WeightUse use = WeightUse::in_backward(ctx);
    const auto saved = ctx->get_saved_variables();
    const auto capsule = ctx->saved_data["options"].toCapsule();
    const auto& options = static_cast<Options&>(*capsule);
    const auto num_parameters = static_cast<std::size_t>(ctx->saved_data["num_parameters"].toInt());
    const Tensor &x_ND = saved[0], &weight_S = saved[1];
    const ExpertTensors experts{at::TensorList(saved).slice(2, num_parameters)};
    const Tensor &gate_up = experts.gate_up(), &down = experts.down(), down_bias = experts.down_bias();
    const auto type = x_ND.scalar_type(), wide = grads[0].scalar_type();
    const Tensor grad_ND = grads[0].contiguous(), narrow_ND = grad_ND.to(type);
    const auto wants = [&](std::size_t i) { return i < 2 + num_parameters && ctx->needs_input_grad(i); };
    const ExpertRows& rows = *options.rows;
    const ExpertProduct product{use, rows, options.is_transposed};
    ExpertGradient grad_gate_up(use, gate_up, wants(2), rows), grad_down(use, down, wants(3), rows),
        grad_gate_up_bias(use, experts.gate_up_bias(), wants(4), rows), grad_down_bias(use, down_bias, wants(5), rows);
    const Tensor grad_x_ND = wants(0) ? at::zeros(x_ND.sizes(), grad_ND.options()) : Tensor();
    const Tensor grad_weight_S = at::empty_like(weight_S);
    const auto add_to = [&](ExpertGradient& gradient, const ExpertBlock& block, const Tensor& grad_nO,
                            const Tensor& x_nI) {
      if (options.is_transposed)
        gradient.take_product(block, x_nI, grad_nO);
      else
        gradient.take_product(block, grad_nO, x_nI);
    };
    std::size_t next = 2 + num_parameters;
    visit_blocks(rows, [&](const ExpertBlock& block) {
      const auto of_block = [&](const Tensor& all) { return all.narrow(0, block.begin, block.size); };
      const Tensor token_n = of_block(rows.token_S), weight_n1 = of_block(weight_S).unsqueeze(1),
                   grad_nD = narrow_ND.index_select(0, token_n),
                   wide_nD = down_bias.defined() ? grad_ND.index_select(0, token_n) : Tensor();
      const Tensor unscaled_nM = product.backward(block, grad_nD, down);
      const auto [grad_both_nO, gated_nM] =
          expert_gated_backward(options.gate, (unscaled_nM * weight_n1).to(type), saved[next++]);
      if (ctx->needs_input_grad(1)) {
        Tensor grad_n = (unscaled_nM * gated_nM).sum(1, false, weight_S.scalar_type());
        if (down_bias.defined()) grad_n += product.with_bias(block, wide_nD, down_bias);
        of_block(grad_weight_S).copy_(grad_n);
      }
      // The narrower side of the product takes the weights.
      if (grad_down) add_to(grad_down, block, grad_nD, (gated_nM * weight_n1).to(type));
      if (grad_down_bias) grad_down_bias.take_sum(block, wide_nD, wide, of_block(weight_S));
      if (grad_gate_up_bias) grad_gate_up_bias.take_sum(block, grad_both_nO, wide);
      if (grad_gate_up) add_to(grad_gate_up, block, grad_both_nO, x_ND.index_select(0, token_n));
      if (grad_x_ND.defined()) add_to_tokens(rows, block, grad_x_ND, product.backward(block, grad_both_nO, gate_up));
    });
    torch::autograd::variable_list out{grad_x_ND.defined() ? grad_x_ND.to(type) : Tensor(),
                                       ctx->needs_input_grad(1) ? grad_weight_S : Tensor(), grad_gate_up.take(),
                                       grad_down.take()};
    if (num_parameters > 2) {
      out.push_back(grad_gate_up_bias.take());
      out.push_back(grad_down_bias.take());
    }
    out.emplace_back();  // of the options
    return out;
  }
};

}  // namespace detail

/// The weighted sum [N, D], in float32 or wider, of what the experts expert_NK (int64) make of x_ND; products in x's
/// type. An expert occurs at most once for a token.
inline Tensor apply_experts(const ExpertGate& gate, const Experts& experts, const Tensor& x_ND, const Tensor& expert_NK,
                            const Tensor& weight_NK) {
  auto options = c10::make_intrusive<detail::ExpertsFunction::Options>();
  options->gate = gate;
  options->is_transposed = experts.is_transposed;
  options->rows = detail::sorted_by_expert(expert_NK, experts.gate_up.size(0));
  const Tensor weight_S = weight_NK.flatten().index_select(0, options->rows->order_S);
  std::vector<Tensor> parameters{experts.gate_up, experts.down};
  if (experts.gate_up_bias_EO.defined())
    parameters.insert(parameters.end(), {experts.gate_up_bias_EO, experts.down_bias_ED});
  return detail::ExpertsFunction::apply(x_ND, weight_S, at::TensorList(parameters), options);
}

}  // namespace kto
