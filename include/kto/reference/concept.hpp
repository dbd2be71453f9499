// SPDX-License-Identifier: Apache-2.0
// The contract of a reference: log-probs of a batch's completions, and of its KL pairs where it has some, under the
// model that the policy is held to. Never with gradient.
#pragma once

#include <concepts>

#include "kto/core/member_names.hpp"
#include "kto/io/state.hpp"
#include "kto/logprob/completion.hpp"

namespace kto {

struct ReferenceLogps {
  Tensor logp_B;     ///< [B] of (prompt, completion)
  Tensor kl_logp_B;  ///< [B] of the mismatched pairs; undefined if the batch has none
};

/// `reference.log_probs(policy, batch)` is const; it is given the policy, since a reference may be the policy itself
/// with its adapter off.
template <class Reference, class Model>
concept GivesReferenceLogps = requires(const Reference& reference, const Model& policy, const Batch& batch) {
  { reference.log_probs(policy, batch) } -> std::same_as<ReferenceLogps>;
};

/// A reference may declare that it tracks no gradients; one that does track them is not a reference.
template <class Reference>
concept HoldsNoGradient = !requires { requires Reference::tracks_gradient; };

/// Optional: `reference.follow(policy, step)` moves the reference after update number `step`, counted from 1.
template <class Reference, class Model>
concept FollowsPolicy = requires(Reference& reference, const Model& policy, std::int64_t step) {
  { reference.follow(policy, step) } -> std::same_as<void>;
};

/// Optional: `template <class Archive> void visit_state(Archive&, const Model& policy)` lists what has moved, so that a
/// run can be saved (kto/io/state.hpp).
template <class Reference, class Model>
concept ReferenceHasState =
    requires(Reference& reference, StateWriter& writer, StateReader& reader, const Model& policy) {
      reference.visit_state(writer, policy);
      reference.visit_state(reader, policy);
    };

/// Optional: `static constexpr bool fixes_kl_pairs = true;` keeps each row's KL partner the same in every epoch and
/// order.
template <class Reference>
concept FixesKlPairs = requires { requires Reference::fixes_kl_pairs; };

namespace detail {
struct ReferenceHooks {
  int follow, fixes_kl_pairs;
};
}  // namespace detail

/// A reference has members of the optional parts' names: they must match the contract above.
template <class Reference>
concept NamesFollow =
    detail::CanBeBase<Reference> && !requires { &detail::WithNames<Reference, detail::ReferenceHooks>::follow; };
template <class Reference>
concept NamesFixedKlPairs = detail::CanBeBase<Reference> &&
                            !requires { &detail::WithNames<Reference, detail::ReferenceHooks>::fixes_kl_pairs; };
template <class Reference>
concept SaysFixedKlPairs = requires { typename std::bool_constant<Reference::fixes_kl_pairs>; };

template <class Reference, class Model>
concept ReferencePolicy = GivesReferenceLogps<Reference, Model> && HoldsNoGradient<Reference>;

}  // namespace kto
