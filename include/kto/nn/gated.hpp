// SPDX-License-Identifier: Apache-2.0
// What an MLP does between its projections, activation(gate) * up or activation(gate): a kernel forward and backward,
// which makes the activation once more in its backward pass, and LibTorch's operators, its oracle.
#pragma once

#include "kto/nn/activate.hpp"
#include "kto/nn/kept.hpp"

namespace kto {

// Shapes: N tokens, M intermediate width.

/// The output of an MLP's first projections: gate and up, [N, M] each; both side by side in `gate`, [N, 2 M]; or, where
/// nothing is multiplied, the gate alone.
struct Gates {
  Tensor gate;
  Tensor up = {};
  bool side_by_side = false;
};

/// gated() from LibTorch's operators, for any device, type and activation.
inline Tensor gated_composed(Activation activation, const Gates& gates) {
  if (gates.side_by_side) {
    const auto halves = gates.gate.chunk(2, -1);
    return activate(activation, halves[0]) * halves[1];
  }
  const Tensor active = activate(activation, gates.gate);
  return gates.up.defined() ? active * gates.up : active;
}

namespace detail {

inline bool takes_gated_kernel(const Gates& gates) { return takes_vectorized(gates.gate); }

struct GatePlan {
  Activation activation;
  bool side_by_side;
};

inline Gates contiguous_gates(const Gates& gates) {
  return {gates.gate.contiguous(), gates.up.defined() ? gates.up.contiguous() : Tensor(), gates.side_by_side};
}

/// Where the numbers of Gates lie: runs of `width`, `stride` apart.
struct GateRuns {
  std::int64_t numbers, width, stride;

  explicit GateRuns(const Gates& gates) {
    const std::int64_t all = gates.gate.numel();
    numbers = gates.side_by_side ? all / 2 : all;
    stride = gates.side_by_side ? gates.gate.size(-1) : std::max<std::int64_t>(1, all);
    width = gates.side_by_side ? stride / 2 : stride;
  }
  /// Calls visit(place in a result, place in gate, count) for the parts of [begin, end) that lie together, vectorized.
  template <class Visit>
  void visit(const Visit& visit) const {
    vectorized(numbers, 8192, [*this, visit](std::int64_t i, std::int64_t end) {
      while (i < end) {
        const std::int64_t run = i / width, first = i - run * width, count = std::min(end - i, width - first);
        visit(i, run * stride + first, count);
        i += count;
      }
    });
  }
};

/// The gate's numbers and what they are multiplied by, or null.
template <class T>
std::pair<const T*, const T*> gate_data(const Gates& gates, const GateRuns& runs) {
  const T* gate = gates.gate.const_data_ptr<T>();
  if (gates.side_by_side) return {gate, gate + runs.width};
  return {gate, gates.up.defined() ? gates.up.const_data_ptr<T>() : nullptr};
}

/// gated() of contiguous tensors of one type. LibTorch's own GELU is the faster one where there is nothing else to do.
template <class = void>
Tensor gated_rows(Activation activation, const Gates& gates) {
  if (activation == Activation::gelu && !gates.side_by_side && !gates.up.defined()) return at::gelu(gates.gate);
  const GateRuns runs(gates);
  auto shape = gates.gate.sizes().vec();
  if (gates.side_by_side) shape.back() /= 2;
  const Tensor out_NM = at::empty(shape, gates.gate.options());
  visit_type(gates.gate.scalar_type(), [&]<class T>(T*) {
    const auto [all_gate, all_up] = gate_data<T>(gates, runs);
    T* all_out = out_NM.mutable_data_ptr<T>();
    visit_activation(activation, [&]<class Act>(Act) {
      runs.visit([gate = all_gate, up = all_up, out = all_out](std::int64_t i, std::int64_t place, std::int64_t count) {
        if (up == nullptr)
          for (std::int64_t j = 0; j < count; ++j) store(out[i + j], Act::value(load(gate[place + j])));
        else
          for (std::int64_t j = 0; j < count; ++j)
            store(out[i + j], rounded_to<T>(Act::value(load(gate[place + j]))) * load(up[place + j]));
      });
    });
  });
  return out_NM;
}
KTO_COMPILED_ONCE(Tensor gated_rows<>(Activation, const Gates&));

struct GatedGrads {
  Tensor gate, up;  ///< as Gates has them
  Tensor out_NM;    ///< gated() once more, where it was asked for
};

template <class = void>
GatedGrads gated_rows_backward(Activation activation, const Tensor& grad_NM, const Gates& gates, bool output_wanted) {
  const GateRuns runs(gates);
  GatedGrads grads{at::empty_like(gates.gate), gates.up.defined() ? at::empty_like(gates.up) : Tensor(),
                   output_wanted ? at::empty_like(grad_NM) : Tensor()};
  visit_type(grad_NM.scalar_type(), [&]<class T>(T*) {
    const auto [all_gate, all_up] = gate_data<T>(gates, runs);
    const T* all_grad = grad_NM.const_data_ptr<T>();
    T* to_gate = grads.gate.mutable_data_ptr<T>();
    T* to_up = gates.side_by_side ? to_gate + runs.width : all_up ? grads.up.mutable_data_ptr<T>() : nullptr;
    T* all_out = output_wanted ? grads.out_NM.mutable_data_ptr<T>() : nullptr;
    visit_activation(activation, [&]<class Act>(Act) {
      runs.visit([gate = all_gate, up = all_up, grad = all_grad, grad_gate = to_gate, grad_up = to_up, out = all_out](
                     std::int64_t i, std::int64_t place, std::int64_t count) {
        if (up == nullptr) {
          for (std::int64_t j = 0; j < count; ++j)
            store(grad_gate[place + j], Act::backward(load(gate[place + j]), load(grad[i + j])).grad);
        } else {
          for (std::int64_t j = 0; j < count; ++j) {
            const float dy = load(grad[i + j]);
            const ValueAndGrad both = Act::backward(load(gate[place + j]), dy * load(up[place + j]));
            store(grad_up[place + j], dy * rounded_to<T>(both.value));
            store(grad_gate[place + j], both.grad);
          }
        }
        if (out == nullptr) return;
        if (up == nullptr)
          for (std::int64_t j = 0; j < count; ++j) store(out[i + j], Act::value(load(gate[place + j])));
        else
          for (std::int64_t j = 0; j < count; ++j)
            store(out[i + j], rounded_to<T>(Act::value(load(gate[place + j]))) * load(up[place + j]));
      });
    });
  });
  return grads;
}
KTO_COMPILED_ONCE(GatedGrads gated_rows_backward<>(Activation, const Tensor&, const Gates&, bool));

struct Gated : torch::autograd::Function<Gated> {
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& gate, const std::optional<Tensor>& up_NM,
                        const GatePlan& plan) {
    const Gates gates = contiguous_gates({gate, up_NM.value_or(Tensor()), plan.side_by_side});
    ctx->save_for_backward({gates.gate, gates.up});
    keep(ctx, "plan", plan);
    return gated_rows(plan.activation, gates);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    check(!at::GradMode::is_enabled(), "gated has no second derivatives on the CPU: use gated_composed");
    const auto& plan = *kept<GatePlan>(ctx, "plan");
    const auto saved = ctx->get_saved_variables();
    auto out =
        gated_rows_backward(plan.activation, grads[0].contiguous(), {saved[0], saved[1], plan.side_by_side}, false);
    return {out.gate, out.up, {}};
  }
};

}  // namespace detail

/// activation(gate) * up, or activation(gate) alone, [N, M] of their type.
inline Tensor gated(Activation activation, const Gates& gates) {
  if (!detail::takes_gated_kernel(gates)) return gated_composed(activation, gates);
  return detail::Gated::apply(gates.gate, gates.up.defined() ? std::optional(gates.up) : std::nullopt,
                              detail::GatePlan{activation, gates.side_by_side});
}

}  // namespace kto
