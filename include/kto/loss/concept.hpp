// SPDX-License-Identifier: Apache-2.0
// The contract of a loss: what the trainer gives it and what it must return. A loss is one small struct whose call
// operator is generic over the array type, so that the same formula runs on LibTorch tensors (training) and on Eigen
// arrays (tests, benchmarks, no LibTorch needed):
//
//   struct MyLoss {
//     static constexpr kto::BatchParts needs{.kl_pairs = true};
//     double beta = 0.1;
//     template <class Array>
//     kto::LossTerms<Array> operator()(const kto::LossInput<Array>& in) const { ... }
//   };
//
// Shapes: B examples. Log-probs are in nats.
#pragma once

#include <Eigen/Core>
#include <concepts>
#include <type_traits>

namespace kto {

/// What a loss needs of a batch, and what a collator provides.
struct BatchParts {
  bool kl_pairs = false;         ///< mismatched (prompt, other completion) pairs, for the KL baseline z0
  bool chosen_rejected = false;  ///< rows come in pairs: the first half chosen, the second half rejected, same prompts
};

namespace detail {
template <class Array>
struct ScalarLike {
  using type = Array;  // at::Tensor: a tensor without dimensions, so that no value travels to the host
};
template <class Array>
  requires requires { typename Array::Scalar; }
struct ScalarLike<Array> {
  using type = typename Array::Scalar;  // Eigen: double, float, AutoDiffScalar, ...
};
}  // namespace detail

/// What the trainer gives a loss.
template <class Array>
struct LossInput {
  using Scalar = typename detail::ScalarLike<Array>::type;
  Array policy_logp_B;     ///< [B] log-prob of each completion under the policy; carries the gradient
  Array reference_logp_B;  ///< [B] the same under the reference
  Array sign_B;            ///< [B] +1 desirable (chosen), -1 undesirable (rejected)
  Scalar baseline;         ///< z0 >= 0, the KL estimate; 0 unless the loss needs kl_pairs
};

/// What a loss returns: per example, before class weights and reduction, which are the trainer's alone.
template <class Array>
struct LossTerms {
  Array loss_B;    ///< [B]; [B / 2], one a pair, where the loss needs chosen_rejected
  Array reward_B;  ///< [B] implicit reward of each row, for the log
};

/// A loss says what it needs of a batch: `static constexpr kto::BatchParts needs{...};`
template <class Loss>
concept DeclaresNeeds = requires {
  { std::remove_cvref_t<decltype(Loss::needs)>(Loss::needs) } -> std::same_as<BatchParts>;
  typename std::bool_constant<Loss::needs.kl_pairs>;
};

/// `loss(input)` is const and returns LossTerms of the array type it was given.
template <class Loss, class Array>
concept MapsInputToTerms = requires(const Loss& loss, const LossInput<Array>& in) {
  { loss(in) } -> std::same_as<LossTerms<Array>>;
};

/// The whole contract, for one array type.
template <class Loss, class Array = Eigen::ArrayXd>
concept LossPolicy = DeclaresNeeds<Loss> && MapsInputToTerms<Loss, Array>;

}  // namespace kto
