// SPDX-License-Identifier: Apache-2.0
// What a loss may write, so that one formula runs on LibTorch tensors and on Eigen arrays. Here are the functions for
// Eigen; a tensor finds LibTorch's of the same name by argument-dependent look-up. So write `using kto::relu;` (or
// `using namespace kto;`) in the call operator, and call it without a prefix: `relu(1 - x)`.
//
//   x, y: arrays or expressions of them; s: a number, or in.baseline; c: a comparison
//   x + y  x - y  x * y  x / y  -x     elementwise; also s + x, x + s, ...
//   x < y  x <= y  x == y  x != s ...  a comparison; there is no && or || that both have: nest where()
//   sigmoid(x)  log_sigmoid(x)         1 / (1 + exp(-x)) and its logarithm, without overflow
//   softplus(x)                        log(1 + exp(x)); a tensor's is x past 20, which is off by 2e-9 at most
//   relu(x)  clamp(x, low, high)       max(x, 0) and min(max(x, low), high) of numbers; NaN stays NaN
//   where(c, x, y)  where(c, x, s) ... x where c holds, else y; at least one of them is an array
//   exp(x)  log(x)  log1p(x)  abs(x)   log1p(x) is log(1 + x), exact for small x
//   x.exp()  x.square()  x.sqrt()  x.tanh()  x.pow(s)     also as members, with others of the same name in both
//   x.sum()  x.mean()                  a LossInput<Array>::Scalar: a number, or a tensor without dimensions
//   chosen_half(x)  rejected_half(x)   of a batch of pairs
//
// Keep results in `const Array`, not `const auto`: an Eigen expression refers to its operands.
#pragma once

#include <Eigen/Core>
#include <concepts>

namespace kto {

namespace detail {
/// A number that goes with arrays of `Derived`.
template <class Number, class Derived>
concept NumberFor = std::convertible_to<Number, typename Derived::Scalar>;
}  // namespace detail

using Eigen::abs;
using Eigen::exp;
using Eigen::log;
using Eigen::log1p;

/// 1 / (1 + exp(-x)), without overflow.
template <class Derived>
typename Derived::PlainObject sigmoid(const Eigen::ArrayBase<Derived>& x) {
  return (1 + (-x).exp()).inverse();
}

/// Log(sigmoid(x)), exact at both ends.
template <class Derived>
typename Derived::PlainObject log_sigmoid(const Eigen::ArrayBase<Derived>& x) {
  return x.min(0) - (-x.abs()).exp().log1p();
}

/// Log(1 + exp(x)), without overflow.
template <class Derived>
typename Derived::PlainObject softplus(const Eigen::ArrayBase<Derived>& x) {
  return -log_sigmoid(-x);
}

/// `then` where `condition` holds, `otherwise` elsewhere.
template <class Condition, class Then, class Else>
typename Then::PlainObject where(const Eigen::ArrayBase<Condition>& condition, const Eigen::ArrayBase<Then>& then,
                                 const Eigen::ArrayBase<Else>& otherwise) {
  return condition.select(then, otherwise);
}
/// The same with a number for `otherwise`.
template <class Condition, class Then, detail::NumberFor<Then> Else>
typename Then::PlainObject where(const Eigen::ArrayBase<Condition>& condition, const Eigen::ArrayBase<Then>& then,
                                 const Else& otherwise) {
  return condition.select(then, static_cast<typename Then::Scalar>(otherwise));
}
/// The same with a number for `then`.
template <class Condition, class Else, detail::NumberFor<Else> Then>
typename Else::PlainObject where(const Eigen::ArrayBase<Condition>& condition, const Then& then,
                                 const Eigen::ArrayBase<Else>& otherwise) {
  return condition.select(static_cast<typename Else::Scalar>(then), otherwise);
}

/// Max(x, 0); NaN stays NaN.
template <class Derived>
typename Derived::PlainObject relu(const Eigen::ArrayBase<Derived>& x) {
  return where(x < 0, 0, x);
}

/// Min(max(x, low), high); NaN stays NaN.
template <class Derived, detail::NumberFor<Derived> Low, detail::NumberFor<Derived> High>
typename Derived::PlainObject clamp(const Eigen::ArrayBase<Derived>& x, const Low& low, const High& high) {
  using Scalar = typename Derived::Scalar;
  const typename Derived::PlainObject raised = where(x < static_cast<Scalar>(low), low, x);
  return where(raised > static_cast<Scalar>(high), high, raised);
}

/// The halves of a batch of pairs: rows 0..B/2-1 are chosen, the others rejected, for the same prompts in order.
template <class Derived>
typename Derived::PlainObject chosen_half(const Eigen::ArrayBase<Derived>& x_B) {
  return x_B.head(x_B.size() / 2);
}
/// The second half, see chosen_half.
template <class Derived>
typename Derived::PlainObject rejected_half(const Eigen::ArrayBase<Derived>& x_B) {
  return x_B.tail(x_B.size() / 2);
}
/// The first half of a tensor [B], as a view.
template <class Tensor>
  requires requires(const Tensor& x) { x.narrow(0, 0, 0); }
Tensor chosen_half(const Tensor& x_B) {
  return x_B.narrow(0, 0, x_B.size(0) / 2);
}
/// The second half, likewise.
template <class Tensor>
  requires requires(const Tensor& x) { x.narrow(0, 0, 0); }
Tensor rejected_half(const Tensor& x_B) {
  return x_B.narrow(0, x_B.size(0) / 2, x_B.size(0) / 2);
}

}  // namespace kto
