// SPDX-License-Identifier: Apache-2.0
// The contract of a reference: log-probs of a batch's completions, and of its KL pairs where it has some, under the
// model that the policy is held to. Never with gradient.
#pragma once

#include <concepts>

#include "kto/logprob/completion.hpp"

namespace kto {

struct ReferenceLogps {
  Tensor logp_B;     ///< [B] of (prompt, completion)
  Tensor kl_logp_B;  ///< [B] of the mismatched pairs; undefined where the batch has none
};

/// `reference.log_probs(policy, batch)` is const; it is given the policy, since a reference may be the policy itself
/// with its adapter off.
template <class Reference, class Model>
concept GivesReferenceLogps = requires(const Reference& reference, const Model& policy, const Batch& batch) {
  { reference.log_probs(policy, batch) } -> std::same_as<ReferenceLogps>;
};

/// A reference says nothing of gradients, or that it tracks none; one that does is no reference.
template <class Reference>
concept HoldsNoGradient = !requires { requires Reference::tracks_gradient; };

template <class Reference, class Model>
concept ReferencePolicy = GivesReferenceLogps<Reference, Model> && HoldsNoGradient<Reference>;

}  // namespace kto
