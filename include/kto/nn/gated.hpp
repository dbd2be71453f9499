// SPDX-License-Identifier: Apache-2.0
// The gated activation of the MLP, activation(gate) * up: for SiLU a kernel forward and backward, for the others
// LibTorch's operators, which are also its oracle.
#pragma once

#include "kto/core/vectorized.hpp"
#include "kto/nn/activation.hpp"

namespace kto {

// Shapes: N tokens, M intermediate width.

/// gelu_tanh with BLOOM's constant for sqrt(2 / pi), which differs from the ninth digit on.
inline Tensor bloom_gelu(const Tensor& x) {
  if (x.scalar_type() != at::kDouble) return at::gelu(x, "tanh");
  return 0.5 * x * (1 + at::tanh(0.79788456 * x * (1 + 0.044715 * x * x)));
}

inline Tensor activate(Activation activation, const Tensor& x) {
  switch (activation) {
    case Activation::gelu:
      return at::gelu(x);
    case Activation::gelu_tanh:
      return at::gelu(x, "tanh");
    case Activation::quick_gelu:
      return x * at::sigmoid(1.702 * x);
    case Activation::relu:
      return at::relu(x);
    case Activation::relu2:
      return at::relu(x).square();
    case Activation::bloom_gelu:
      return bloom_gelu(x);
    case Activation::silu:
      break;
  }
  return at::silu(x);
}

/// gated from LibTorch's operators, for any device, type and activation.
inline Tensor gated_composed(Activation activation, const Tensor& gate_NM, const Tensor& up_NM) {
  return activate(activation, gate_NM) * up_NM;
}

namespace detail {

inline bool takes_gated_kernel(Activation activation, const Tensor& gate_NM) {
  return activation == Activation::silu && takes_vectorized(gate_NM);
}

/// silu(gate) * up; all contiguous and of one type.
inline Tensor silu_gated(const Tensor& gate_NM, const Tensor& up_NM) {
  const Tensor out_NM = at::empty_like(gate_NM);
  visit_type(gate_NM.scalar_type(), [&]<class T>(T*) {
    const T *gate = gate_NM.const_data_ptr<T>(), *up = up_NM.const_data_ptr<T>();
    T* out = out_NM.mutable_data_ptr<T>();
    vectorized(gate_NM.numel(), 8192, [=](std::int64_t i, std::int64_t end) {
      for (; i < end; ++i) {
        const float g = load(gate[i]);
        store(out[i], rounded_to<T>(g / (1 + vector_exp(-g))) * load(up[i]));
      }
    });
  });
  return out_NM;
}

struct GatedGrads {
  Tensor gate_NM, up_NM;
  Tensor out_NM;  ///< silu(gate) * up once more, where it was asked for
};

inline GatedGrads silu_gated_backward(const Tensor& grad_NM, const Tensor& gate_NM, const Tensor& up_NM,
                                      bool output_wanted) {
  GatedGrads grads{at::empty_like(gate_NM), at::empty_like(gate_NM),
                   output_wanted ? at::empty_like(gate_NM) : Tensor()};
  visit_type(gate_NM.scalar_type(), [&]<class T>(T*) {
    const T *grad = grad_NM.const_data_ptr<T>(), *gate = gate_NM.const_data_ptr<T>(), *up = up_NM.const_data_ptr<T>();
    T *grad_gate = grads.gate_NM.mutable_data_ptr<T>(), *grad_up = grads.up_NM.mutable_data_ptr<T>();
    T* out = output_wanted ? grads.out_NM.mutable_data_ptr<T>() : nullptr;
    vectorized(gate_NM.numel(), 8192, [=](std::int64_t i, std::int64_t end) {
      const std::int64_t begin = i;
      for (; i < end; ++i) {
        const float g = load(gate[i]), u = load(up[i]), dy = load(grad[i]);
        const float sigmoid = 1 / (1 + vector_exp(-g));
        store(grad_up[i], dy * rounded_to<T>(g * sigmoid));
        store(grad_gate[i], dy * u * sigmoid * (1 + g * (1 - sigmoid)));
      }
      if (out != nullptr)
        for (i = begin; i < end; ++i) {
          const float g = load(gate[i]);
          store(out[i], rounded_to<T>(g / (1 + vector_exp(-g))) * load(up[i]));
        }
    });
  });
  return grads;
}

struct SiluGated : torch::autograd::Function<SiluGated> {
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& gate_NM, const Tensor& up_NM) {
    const Tensor gate = gate_NM.contiguous(), up = up_NM.contiguous();
    ctx->save_for_backward({gate, up});
    return silu_gated(gate, up);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    check(!at::GradMode::is_enabled(), "gated has no second derivatives on the CPU: use gated_composed");
    const auto saved = ctx->get_saved_variables();
    auto out = silu_gated_backward(grads[0].contiguous(), saved[0], saved[1], false);
    return {out.gate_NM, out.up_NM};
  }
};

}  // namespace detail

/// activation(gate) * up, of their type.
inline Tensor gated(Activation activation, const Tensor& gate_NM, const Tensor& up_NM) {
  if (!detail::takes_gated_kernel(activation, gate_NM)) return gated_composed(activation, gate_NM, up_NM);
  return detail::SiluGated::apply(gate_NM, up_NM);
}

}  // namespace kto
