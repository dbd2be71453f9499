// SPDX-License-Identifier: Apache-2.0
// What the backward passes of the fast layers do with weights: a gradient becomes `weight.grad()`, or is added to it,
// in the backward pass that makes it, and a weight of another type than its products may be cast once, not once a
// product. Both are scopes that the trainer opens around a step; without them everything is as autograd has it.
#pragma once

#include <unordered_map>
#include <utility>

#include "kto/nn/matmul.hpp"

namespace kto {

// Shapes: N rows, I inputs, O outputs.

/// While one lives, backward passes in this thread put gradients of leaf weights straight into their `.grad()`: of two
/// parts of one gradient only the first is ever held whole. autograd::grad does not see them then.
class InPlaceGradients {
 public:
  InPlaceGradients() : outer_(std::exchange(current(), this)) {}
  ~InPlaceGradients() { current() = outer_; }
  InPlaceGradients(const InPlaceGradients&) = delete;
  InPlaceGradients& operator=(const InPlaceGradients&) = delete;

  static bool take(const Tensor& weight) {
    return current() != nullptr && !at::GradMode::is_enabled() && weight.is_leaf() && weight.requires_grad();
  }

 private:
  static InPlaceGradients*& current() {
    thread_local InPlaceGradients* scope = nullptr;
    return scope;
  }
  InPlaceGradients* outer_;
};

/// While one lives, weights that are cast in this thread are cast once. Open one where no weight changes, and where
/// products are small: those of `enough_tokens` and more take as long with a weight that was cast just before, which is
/// then in the cache of the processor, and need no second copy of all weights.
class CastOnce {
 public:
  static constexpr std::int64_t enough_tokens = 512;

  CastOnce() : outer_(std::exchange(current(), this)) {}
  ~CastOnce() { current() = outer_; }
  CastOnce(const CastOnce&) = delete;
  CastOnce& operator=(const CastOnce&) = delete;

  static bool is_open() { return current() != nullptr; }

  /// `weight` in `type`, without gradient.
  static Tensor cast(const Tensor& weight, at::ScalarType type) {
    Tensor plain = weight.detach();
    if (plain.scalar_type() == type) return plain;
    CastOnce* scope = current();
    if (scope == nullptr || !weight.is_leaf()) return plain.to(type);
    auto& [held, cast] = scope->casts_[weight.unsafeGetTensorImpl()];
    if (!cast.defined() || cast.scalar_type() != type) held = weight, cast = plain.to(type);
    return cast;
  }

 private:
  static CastOnce*& current() {
    thread_local CastOnce* scope = nullptr;
    return scope;
  }
  CastOnce* outer_;
  std::unordered_map<const void*, std::pair<Tensor, Tensor>> casts_;  // the weight, so that its address stays its own
};

namespace detail {

/// grad += a_OM b_MI.
inline void add_product(const Tensor& grad_OI, const Tensor& a_OM, const Tensor& b_MI) {
  const bool one_type = grad_OI.scalar_type() == a_OM.scalar_type();
  if (one_type && matmul_backend() == MatmulBackend::aten)
    grad_OI.addmm_(a_OM, b_MI);
  else
    grad_OI.add_(matmul_transposed(a_OM, b_MI.t()));
}

/// The gradient of weight_OI in x w^T, grad_NO^T x_NI; undefined where it was added to the weight's own.
inline Tensor weight_gradient(const Tensor& weight_OI, const Tensor& grad_NO, const Tensor& x_NI) {
  const auto product = [&] { return matmul_transposed(grad_NO.t(), x_NI.t()); };
  if (!InPlaceGradients::take(weight_OI)) return product();
  if (weight_OI.grad().defined())
    add_product(weight_OI.grad(), grad_NO.t(), x_NI);
  else
    weight_OI.mutable_grad() = product().to(weight_OI.scalar_type());
  return {};
}

/// Likewise for a vector, from its gradient.
inline Tensor vector_gradient(const Tensor& weight, const Tensor& grad) {
  if (!InPlaceGradients::take(weight)) return grad;
  if (weight.grad().defined())
    weight.grad().add_(grad);
  else
    weight.mutable_grad() = grad.to(weight.scalar_type());
  return {};
}

}  // namespace detail

}  // namespace kto
