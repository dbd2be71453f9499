// SPDX-License-Identifier: Apache-2.0
// The activations of feed-forward layers: from LibTorch's operators, and as functions of one number for kernels.
#pragma once

#include <numbers>

#include "kto/core/vectorized.hpp"
#include "kto/nn/activation.hpp"

namespace kto {

/// gelu_tanh with BLOOM's constant for sqrt(2 / pi), which differs from the ninth digit on.
inline Tensor bloom_gelu(const Tensor& x) {
  if (x.scalar_type() != at::kDouble) return at::gelu(x, "tanh");
  return 0.5 * x * (1 + at::tanh(0.79788456 * x * (1 + 0.044715 * x * x)));
}

/// The activation of x from LibTorch's operators, for any device and type.
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

namespace detail {

/// An activation's value, and its derivative times `grad`.
struct ValueAndGrad {
  float value, grad;
};

struct Silu {
  static float value(float x) { return x / (1 + vector_exp(-x)); }
  static ValueAndGrad backward(float x, float grad) {
    const float sigmoid = 1 / (1 + vector_exp(-x));
    return {x * sigmoid, grad * sigmoid * (1 + x * (1 - sigmoid))};
  }
};

/// x times the share of a normal distribution below x, (1 + erf(x / sqrt(2))) / 2, to 1e-7: by Abramowitz and Stegun's
/// formula 7.1.26, whose exponential is the derivative's, too.
struct Gelu {
  /// That share, from bell = exp(-x^2 / 2).
  static float below(float x, float bell) {
    const float t = 1 / (1 + 0.3275911F * 0.5F * std::numbers::sqrt2_v<float> * std::abs(x));
    float p = 1.061405429F;
    p = p * t - 1.453152027F;
    p = p * t + 1.421413741F;
    p = p * t - 0.284496736F;
    p = p * t + 0.254829592F;
    const float beyond = 0.5F * p * t * bell;
    return x < 0 ? beyond : 1 - beyond;
  }
  static float value(float x) { return x * below(x, vector_exp(-0.5F * x * x)); }
  static ValueAndGrad backward(float x, float grad) {
    constexpr float peak = 0.398942280F;  // 1 / sqrt(2 pi)
    const float bell = vector_exp(-0.5F * x * x), share = below(x, bell);
    return {x * share, grad * (share + x * peak * bell)};
  }
};

/// 0.5 (1 + tanh(y)) is sigmoid(2 y).
struct GeluTanh {
  static constexpr float twice = 1.59576912F, cubic = 0.044715F;  // 2 sqrt(2 / pi)
  static float sigmoid(float x) { return 1 / (1 + vector_exp(-twice * x * (1 + cubic * x * x))); }
  static float value(float x) { return x * sigmoid(x); }
  static ValueAndGrad backward(float x, float grad) {
    const float share = sigmoid(x);
    return {x * share, grad * share * (1 + x * (1 - share) * twice * (1 + 3 * cubic * x * x))};
  }
};

struct QuickGelu {
  static float sigmoid(float x) { return 1 / (1 + vector_exp(-1.702F * x)); }
  static float value(float x) { return x * sigmoid(x); }
  static ValueAndGrad backward(float x, float grad) {
    const float share = sigmoid(x);
    return {x * share, grad * share * (1 + 1.702F * x * (1 - share))};
  }
};

struct Relu {
  static float value(float x) { return x < 0 ? 0.0F : x; }  // NaN stays NaN
  static ValueAndGrad backward(float x, float grad) { return {value(x), x > 0 ? grad : 0.0F}; }
};

struct Relu2 {
  static float value(float x) { return Relu::value(x) * x; }
  static ValueAndGrad backward(float x, float grad) { return {value(x), grad * 2 * Relu::value(x)}; }
};

/// Calls visit with the activation's function of float32 numbers.
template <class Visit>
void visit_activation(Activation activation, const Visit& visit) {
  switch (activation) {
    case Activation::gelu:
      return visit(Gelu{});
    case Activation::gelu_tanh:
    case Activation::bloom_gelu:
      return visit(GeluTanh{});
    case Activation::quick_gelu:
      return visit(QuickGelu{});
    case Activation::relu:
      return visit(Relu{});
    case Activation::relu2:
      return visit(Relu2{});
    case Activation::silu:
      return visit(Silu{});
  }
}

}  // namespace detail

}  // namespace kto
