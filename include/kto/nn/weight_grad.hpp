// SPDX-License-Identifier: Apache-2.0
// What the fast layers do with weights: a gradient becomes `weight.grad()`, or is added to it, in the backward pass
// that makes it, and a weight of another type than its products may be cast once, not once a product. Both are scopes
// that the trainer opens around a step; without them everything is as autograd has it. LibTorch may run a backward pass
// on another thread than its forward pass, and on a GPU always does. So a node keeps the scopes that were open where
// its forward ran, and its backward uses those.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "kto/nn/kept.hpp"
#include "kto/nn/matmul.hpp"

namespace kto {

// Shapes: N rows, I inputs, O outputs.

namespace detail {

/// grad += a_OM b_MI.
inline void add_product(const Tensor& grad_OI, const Tensor& a_OM, const Tensor& b_MI) {
  if (needs_widening(a_OM)) return add_widened_product(grad_OI, a_OM, b_MI, float_product);
  const bool one_type = grad_OI.scalar_type() == a_OM.scalar_type();
  if (one_type && matmul_backend() == MatmulBackend::aten)
    grad_OI.addmm_(a_OM, b_MI);
  else
    grad_OI.add_(matmul_transposed(a_OM, b_MI.t()));
}

/// Held while the gradient of `weight` is added to: backward passes may run side by side. Many weights share a lock, so
/// hold one at a time.
inline std::unique_lock<std::mutex> lock_gradient(const Tensor& weight) {
  static std::array<std::mutex, 64> mutexes;
  return std::unique_lock(mutexes[std::hash<const void*>()(weight.unsafeGetTensorImpl()) / 64 % mutexes.size()]);
}

/// The casts of one CastOnce, for all threads.
class WeightCasts {
 public:
  Tensor cast(const Tensor& weight, at::ScalarType type) {
    const std::lock_guard lock(mutex_);
    if (closed_) return weight.detach().to(type);
    auto& [held, cast] = casts_[weight.unsafeGetTensorImpl()];
    if (!cast.defined() || cast.scalar_type() != type) {
      held = weight;
      cast = weight.detach().to(type);
    }
    return cast;
  }
  /// Drops the casts, and keeps none from now on.
  void close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    casts_.clear();
  }

 private:
  std::mutex mutex_;
  bool closed_ = false;
  std::unordered_map<const void*, std::pair<Tensor, Tensor>> casts_;  // the weight, so that its address stays its own
};

/// The scopes that are open at some place: what a node does with weights in its forward and in its backward.
struct WeightUse {
  std::shared_ptr<std::atomic<bool>> adds_gradients = {};  ///< of an InPlaceGradients; false once that is gone
  std::shared_ptr<WeightCasts> casts = {};                 ///< of a CastOnce

  /// What is open on this thread. Only a WeightScope changes it.
  static WeightUse& current() {
    thread_local WeightUse use;
    return use;
  }
  /// For the forward of a node: what is open on this thread. The node keeps it.
  static WeightUse in_forward(torch::autograd::AutogradContext* ctx);
  /// For the backward of a node, on any thread: what was open in its forward.
  static WeightUse in_backward(torch::autograd::AutogradContext* ctx);

  /// `weight` in `type`, without gradient.
  Tensor cast(const Tensor& weight, at::ScalarType type) const {
    if (!casts || weight.scalar_type() == type || !weight.is_leaf()) return weight.detach().to(type);
    return casts->cast(weight, type);
  }

  /// Whether a backward adds the gradient of `weight` to `weight.grad()` itself, under lock_gradient.
  bool adds_gradient_of(const Tensor& weight) const {
    return adds_gradients && *adds_gradients && !at::GradMode::is_enabled() && weight.is_leaf() &&
           weight.requires_grad();
  }
  /// The gradient of weight_OI in x w^T, grad_NO^T x_NI; undefined where it was added to the weight's own.
  Tensor weight_gradient(const Tensor& weight_OI, const Tensor& grad_NO, const Tensor& x_NI) const {
    const auto product = [&] { return matmul_transposed(grad_NO.t(), x_NI.t()); };
    if (!adds_gradient_of(weight_OI)) return product();
    const auto lock = lock_gradient(weight_OI);
    if (weight_OI.grad().defined())
      add_product(weight_OI.grad(), grad_NO.t(), x_NI);
    else
      weight_OI.mutable_grad() = product().to(weight_OI.scalar_type());
    return {};
  }
  /// Likewise for a vector, from its gradient.
  Tensor vector_gradient(const Tensor& weight, const Tensor& grad) const {
    if (!adds_gradient_of(weight)) return grad;
    const auto lock = lock_gradient(weight);
    if (weight.grad().defined())
      weight.grad().add_(grad);
    else
      weight.mutable_grad() = grad.to(weight.scalar_type());
    return {};
  }
};

inline WeightUse WeightUse::in_forward(torch::autograd::AutogradContext* ctx) {
  const WeightUse& use = current();
  if (use.adds_gradients || use.casts) keep(ctx, "weight_use", use);
  return use;
}
inline WeightUse WeightUse::in_backward(torch::autograd::AutogradContext* ctx) {
  const auto* use = kept<WeightUse>(ctx, "weight_use");
  return use == nullptr ? WeightUse{} : *use;
}

/// While one lives, `use` is open on this thread.
class WeightScope {
 public:
  explicit WeightScope(WeightUse use) : outer_(std::exchange(WeightUse::current(), std::move(use))) {}
  ~WeightScope() { WeightUse::current() = std::move(outer_); }
  WeightScope(const WeightScope&) = delete;
  WeightScope& operator=(const WeightScope&) = delete;

 private:
  WeightUse outer_;
};

}  // namespace detail

/// While one lives, the nodes recorded on this thread since it was opened put gradients of leaf weights straight into
/// their `.grad()`: of two parts of one gradient only the first is ever held whole. autograd::grad does not see them
/// then. Open it around the forward pass and the backward pass, which may run on any thread. Backward passes may run
/// side by side, and share weights, if all were recorded in such a scope. Destroy scopes in reverse order.
class InPlaceGradients {
 public:
  ~InPlaceGradients() { *open_ = false; }

 private:
  std::shared_ptr<std::atomic<bool>> open_ = std::make_shared<std::atomic<bool>>(true);
  detail::WeightScope scope_{{.adds_gradients = open_, .casts = detail::WeightUse::current().casts}};
};

/// While one lives, a weight that is cast by what runs on this thread, or by the backward pass of it on any thread, is
/// cast once. Open one where no weight changes, and where products are small: those of `enough_tokens` and more take as
/// long with a weight that was cast just before, which is then in the cache of the processor, and need no second copy
/// of all weights.
class CastOnce {
 public:
  static constexpr std::int64_t enough_tokens = 512;

  ~CastOnce() { casts_->close(); }

 private:
  std::shared_ptr<detail::WeightCasts> casts_ = std::make_shared<detail::WeightCasts>();
  detail::WeightScope scope_{{.adds_gradients = detail::WeightUse::current().adds_gradients, .casts = casts_}};
};

}  // namespace kto
