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
#include "kto/nn/gated.hpp"

namespace kto {

// Shapes: N tokens, K experts of a token, S = N K rows sorted by expert, n rows of one expert, E experts, D width,
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

/// Which rows are an expert's.
struct ExpertRows : torch::CustomClassHolder {
  Tensor token_S;                  ///< int64, the token of each row
  Tensor order_S;                  ///< int64, its place in [N, K]
  std::vector<std::int64_t> ends;  ///< of each expert's rows
};

/// to_ND[token_n] += scale_n rows_nD; without scale where that is undefined. No token occurs twice.
template <class = void>
void add_rows(const Tensor& to_ND, const Tensor& token_n, const Tensor& rows_nD, const Tensor& scale_n = {}) {
  if (!takes_vectorized(rows_nD) || to_ND.scalar_type() != at::kFloat) {
    const Tensor wide = rows_nD.to(to_ND.scalar_type());
    to_ND.index_add_(0, token_n, scale_n.defined() ? wide * scale_n.unsqueeze(1) : wide);
    return;
  }
  const std::int64_t width = to_ND.size(1);
  const Tensor held_nD = rows_nD.contiguous(), held_n = scale_n.defined() ? scale_n.to(at::kFloat) : scale_n;
  visit_type(rows_nD.scalar_type(), [&]<class T>(T*) {
    const T* all_rows = held_nD.const_data_ptr<T>();
    float* all_to = to_ND.mutable_data_ptr<float>();
    const auto* tokens = token_n.const_data_ptr<std::int64_t>();
    const float* scales = held_n.defined() ? held_n.const_data_ptr<float>() : nullptr;
    vectorized(token_n.size(0), std::max<std::int64_t>(1, 8192 / width), [=](std::int64_t i, std::int64_t end) {
      for (; i < end; ++i) {
        float* to = all_to + tokens[i] * width;
        const T* row = all_rows + i * width;
        const float scale = scales == nullptr ? 1 : scales[i];
        for (std::int64_t c = 0; c < width; ++c) to[c] += scale * load(row[c]);
      }
    });
  });
}
KTO_COMPILED_ONCE(void add_rows<>(const Tensor&, const Tensor&, const Tensor&, const Tensor&));

inline c10::intrusive_ptr<ExpertRows> sorted_by_expert(const Tensor& expert_NK, std::int64_t num_experts) {
  const at::NoGradGuard no_grad;
  const Tensor expert_S = expert_NK.flatten();
  auto out = c10::make_intrusive<ExpertRows>();
  out->order_S = expert_S.argsort(/*stable=*/true, /*dim=*/0, /*descending=*/false);
  out->token_S = out->order_S.div(expert_NK.size(1), "floor");
  const Tensor count_E = at::zeros({num_experts}, expert_S.options()).index_add_(0, expert_S, at::ones_like(expert_S)),
               end_E = count_E.cumsum(0).cpu();  // the one number of a layer that the host waits for
  const std::int64_t* ends = end_E.const_data_ptr<std::int64_t>();
  out->ends.assign(ends, ends + num_experts);
  return out;
}

/// Calls visit(expert, first row, number of rows) for the experts that have rows.
template <class Visit>
void visit_experts(const ExpertRows& rows, const Visit& visit) {
  std::int64_t begin = 0;
  for (std::size_t e = 0; e < rows.ends.size(); ++e) {
    if (rows.ends[e] > begin) visit(static_cast<std::int64_t>(e), begin, rows.ends[e] - begin);
    begin = rows.ends[e];
  }
}

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

/// The weight of one expert as [outputs, inputs], in `type`.
inline Tensor expert_weight(const WeightUse& use, const Tensor& weight, bool is_transposed, std::int64_t expert,
                            at::ScalarType type) {
  const Tensor held = use.casts ? use.cast(weight, type) : weight.detach();
  const Tensor one = held.select(0, expert).to(type);
  return is_transposed ? one.t() : one;
}
inline std::optional<Tensor> expert_bias(const Tensor& bias_EO, std::int64_t expert, at::ScalarType type) {
  return bias_EO.defined() ? std::optional(bias_EO.detach().select(0, expert).to(type)) : std::nullopt;
}

/// The gradient of a tensor of all experts, made expert by expert, each once; what has no rows gets zeros.
class ExpertGradient {
 public:
  ExpertGradient(const WeightUse& use, const Tensor& weight, bool wanted, const ExpertRows& rows)
      : weight_(weight), wanted_(wanted), in_place_(wanted && use.adds_gradient_of(weight)) {
    if (!wanted) return;
    adds_ = in_place_ && weight.grad().defined();
    grad_ = adds_ ? weight.grad() : at::empty_like(weight.detach());
    for (std::size_t e = 0; e < rows.ends.size() && !adds_; ++e)
      if (rows.ends[e] == (e == 0 ? 0 : rows.ends[e - 1])) grad_.select(0, static_cast<std::int64_t>(e)).zero_();
  }
  explicit operator bool() const { return wanted_; }
  /// The expert's part is, or grows by, a_OM b_MI.
  void take_product(std::int64_t expert, const Tensor& a_OM, const Tensor& b_MI) {
    const Tensor part = grad_.select(0, expert);
    if (adds_) {
      const auto lock = lock_gradient(weight_);
      add_product(part, a_OM, b_MI);
    } else {
      part.copy_(matmul_transposed(a_OM, b_MI.t()));
    }
  }
  void take_sum(std::int64_t expert, const Tensor& sum_O) {
    const Tensor part = grad_.select(0, expert);
    if (adds_) {
      const auto lock = lock_gradient(weight_);
      part.add_(sum_O);
    } else {
      part.copy_(sum_O);
    }
  }
  /// The gradient; undefined where it was added to the weight's own.
  Tensor take() {
    if (!in_place_) return grad_;
    if (adds_) return {};
    const auto lock = lock_gradient(weight_);
    if (weight_.grad().defined())
      weight_.grad().add_(grad_);
    else
      weight_.mutable_grad() = grad_;
    return {};
  }

 private:
  Tensor weight_;
  bool wanted_, in_place_, adds_ = false;
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
    const auto type = x_ND.scalar_type();
    const bool is_transposed = options->is_transposed;
    const Tensor out_ND = at::zeros(x_ND.sizes(), x_ND.options().dtype(wide_type(type)));
    torch::autograd::variable_list saved{x_ND, weight_S};
    saved.insert(saved.end(), parameters.begin(), parameters.end());
    const ExpertTensors experts{parameters};
    visit_experts(*options->rows, [&](std::int64_t e, std::int64_t begin, std::int64_t n) {
      const Tensor token_n = options->rows->token_S.narrow(0, begin, n);
      const Tensor both_nO = matmul_transposed(x_ND.index_select(0, token_n),
                                               expert_weight(use, experts.gate_up(), is_transposed, e, type),
                                               expert_bias(experts.gate_up_bias(), e, type));
      const Tensor out_nD = matmul_transposed(expert_gated(options->gate, both_nO),
                                              expert_weight(use, experts.down(), is_transposed, e, type),
                                              expert_bias(experts.down_bias(), e, type));
      add_rows(out_ND, token_n, out_nD, weight_S.narrow(0, begin, n));
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
    const bool is_transposed = options.is_transposed;
    const auto num_parameters = static_cast<std::size_t>(ctx->saved_data["num_parameters"].toInt());
    const Tensor &x_ND = saved[0], &weight_S = saved[1];
    const ExpertTensors experts{at::TensorList(saved).slice(2, num_parameters)};
    const Tensor &gate_up = experts.gate_up(), &down = experts.down(), down_bias = experts.down_bias();
    const auto type = x_ND.scalar_type(), wide = grads[0].scalar_type();
    const Tensor grad_ND = grads[0].contiguous(), narrow_ND = grad_ND.to(type);
    const auto wants = [&](std::size_t i) { return i < 2 + num_parameters && ctx->needs_input_grad(i); };
    const ExpertRows& rows = *options.rows;
    ExpertGradient grad_gate_up(use, gate_up, wants(2), rows), grad_down(use, down, wants(3), rows),
        grad_gate_up_bias(use, experts.gate_up_bias(), wants(4), rows), grad_down_bias(use, down_bias, wants(5), rows);
    const Tensor grad_x_ND = wants(0) ? at::zeros(x_ND.sizes(), grad_ND.options()) : Tensor();
    const Tensor grad_weight_S = at::empty_like(weight_S);
    const auto add_to = [&](ExpertGradient& gradient, std::int64_t e, const Tensor& grad_nO, const Tensor& x_nI) {
      if (is_transposed)
        gradient.take_product(e, x_nI.t(), grad_nO);
      else
        gradient.take_product(e, grad_nO.t(), x_nI);
    };
    std::size_t next = 2 + num_parameters;
    visit_experts(rows, [&](std::int64_t e, std::int64_t begin, std::int64_t n) {
      const Tensor token_n = rows.token_S.narrow(0, begin, n), weight_n = weight_S.narrow(0, begin, n),
                   weight_n1 = weight_n.unsqueeze(1), grad_nD = narrow_ND.index_select(0, token_n),
                   wide_nD = down_bias.defined() ? grad_ND.index_select(0, token_n) : Tensor();
      const Tensor unscaled_nM = matmul_transposed(grad_nD, expert_weight(use, down, is_transposed, e, type).t());
      const auto [grad_both_nO, gated_nM] =
          expert_gated_backward(options.gate, (unscaled_nM * weight_n1).to(type), saved[next++]);
      if (ctx->needs_input_grad(1)) {
        Tensor grad_n = (unscaled_nM * gated_nM).sum(1, false, weight_S.scalar_type());
        if (const auto bias_D = expert_bias(down_bias, e, wide)) grad_n += at::mv(wide_nD, *bias_D);
        grad_weight_S.narrow(0, begin, n).copy_(grad_n);
      }
      // The narrower side of the product takes the weights.
      if (grad_down) add_to(grad_down, e, grad_nD, (gated_nM * weight_n1).to(type));
      if (grad_down_bias) grad_down_bias.take_sum(e, at::mv(wide_nD.t(), weight_n.to(wide)));
      if (grad_gate_up_bias) grad_gate_up_bias.take_sum(e, grad_both_nO.sum(0, false, wide));
      if (grad_gate_up) add_to(grad_gate_up, e, grad_both_nO, x_ND.index_select(0, token_n));
      if (grad_x_ND.defined())
        add_rows(grad_x_ND, token_n,
                 matmul_transposed(grad_both_nO, expert_weight(use, gate_up, is_transposed, e, type).t()));
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
