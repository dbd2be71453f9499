// SPDX-License-Identifier: Apache-2.0
// The contract of a loss: what the trainer gives it and what it must return. A loss is one small struct whose call
// operator is generic over the array type, so that the same formula runs on LibTorch tensors (training) and on Eigen
// arrays (tests, benchmarks, no LibTorch needed; what both offer is listed in kto/loss/array.hpp):
//
//   struct MyLoss {
//     static constexpr kto::BatchParts needs{.kl_pairs = true};
//     double beta = 0.1;
//     template <class Array>
//     kto::LossTerms<Array> operator()(const kto::LossInput<Array>& in) const { ... }
//   };
//
// A loss that a command line offers also says its name and its flags: kto/loss/option.hpp.
// Shapes: B examples. Log-probs are in nats.
#pragma once

#include <concepts>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "kto/collate/parts.hpp"
#include "kto/core/member_names.hpp"
#include "kto/loss/array.hpp"
#include "kto/loss/option.hpp"

namespace kto {

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
  using Scalar = typename detail::ScalarLike<Array>::type;  ///< a number; of a tensor, a tensor without dimensions
  Array policy_logp_B;     ///< [B] log-prob of each completion under the policy; carries the gradient
  Array reference_logp_B;  ///< [B] the same under the reference
  Array sign_B;            ///< [B] +1 desirable (chosen), -1 undesirable (rejected)
  Array length_B;          ///< [B] scored tokens of each completion, for length-normalised losses
  Scalar baseline;         ///< z0 >= 0, the KL estimate; 0 unless the loss needs kl_pairs
};

/// What a loss returns: per example, before class weights and reduction, which are the trainer's alone.
template <class Array>
struct LossTerms {
  Array loss_B;    ///< [B]; [B / 2], one a pair, where the loss needs chosen_rejected
  Array reward_B;  ///< [B] implicit reward of each row, for the log
};

/// `loss(input)` is const and returns LossTerms of the array type it was given.
template <class Loss, class Array>
concept MapsInputToTerms = requires(const Loss& loss, const LossInput<Array>& in) {
  { loss(in) } -> std::same_as<LossTerms<Array>>;
};

/// Optional: `loss.observe(input)` lets a loss update state of its own; called before `loss(input)`, in training only.
/// `template <class Archive> void visit_state(Archive&)` lists that state, so that a run can be saved
/// (kto/io/state.hpp).
template <class Loss, class Array>
concept Observes = requires(Loss& loss, const LossInput<Array>& in) {
  { loss.observe(in) } -> std::same_as<void>;
};

/// Scalars with their names in the log.
template <class Array>
using NamedScalars = std::vector<std::pair<std::string, typename LossInput<Array>::Scalar>>;
/// Optional: `loss.metrics(input, terms)` gives named scalars, which are averaged into the log.
template <class Loss, class Array>
concept ReportsMetrics = requires(const Loss& loss, const LossInput<Array>& in, const LossTerms<Array>& terms) {
  { loss.metrics(in, terms) } -> std::same_as<NamedScalars<Array>>;
};

namespace detail {
struct LossHooks {
  int observe, metrics;
};
}  // namespace detail

/// A loss has members of the optional parts' names: they must match the contract above.
template <class Loss>
concept NamesObserve = detail::CanBeBase<Loss> && !requires { &detail::WithNames<Loss, detail::LossHooks>::observe; };
/// Likewise for metrics.
template <class Loss>
concept NamesMetrics = detail::CanBeBase<Loss> && !requires { &detail::WithNames<Loss, detail::LossHooks>::metrics; };

/// The whole contract, for one array type.
template <class Loss, class Array = Eigen::ArrayXd>
concept LossPolicy = DeclaresNeeds<Loss> && MapsInputToTerms<Loss, Array>;

}  // namespace kto
