// SPDX-License-Identifier: Apache-2.0
// The contract of a reference: log-probs of a batch's completions, and of its KL pairs if it has any, under the model
// that the policy is compared with. Never with gradient.
#pragma once

#include <concepts>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "kto/core/fields.hpp"
#include "kto/core/member_names.hpp"
#include "kto/io/state.hpp"
#include "kto/logprob/completion.hpp"

namespace kto {

struct ReferenceLogps {
  Tensor logp_B;     ///< [B] of (prompt, completion)
  Tensor kl_logp_B;  ///< [B] of the mismatched pairs; undefined if the batch has none
};

/// `reference.log_probs(policy, batch)` is const. It receives the policy, because a reference may be the policy itself
/// without its adapter.
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

/// Optional: `template <class Archive> void visit_state(Archive&, const Model& policy)` lists the state that moves, so
/// that a run can be saved (kto/io/state.hpp).
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

/// Optional: `bool is_frozen() const` says that the log-probs of a row are the same at any time, so that they may be kept
/// (kto/reference/reused.hpp).
template <class Reference>
concept SaysFrozen = requires(const Reference& reference) {
  { reference.is_frozen() } -> std::same_as<bool>;
};

/// Optional: a reference that keeps the log-probs of rows. `begin_run(rows, sets)` names the rows of a run (none for a
/// stream) and of its evaluation sets; they stay where they are. `keep(batch, logps)` gives it log-probs that it was not
/// asked for. When `is_done_with(batches, with_kl)` holds for all micro-batches to come, the trainer calls `let_go()`.
template <class Reference>
concept KeepsLogps = requires(Reference& reference, std::span<const Example> rows,
                              const std::vector<std::span<const Example>>& sets, const Batch& batch,
                              const ReferenceLogps& logps, std::span<const std::vector<Pick>> batches, bool with_kl) {
  reference.begin_run(rows, sets);
  std::as_const(reference).keep(batch, logps);
  { reference.is_done_with(batches, with_kl) } -> std::same_as<bool>;
  reference.let_go();
};

/// Optional: `bool starts_as_policy` says that the reference was made from the untrained policy. The trainer then
/// checks that the first rows have the same log-probs under both, and an evaluation before training computes them once.
template <class Reference>
concept SaysStartsAsPolicy = requires(const Reference& reference) {
  { (reference.starts_as_policy) } -> std::same_as<const bool&>;
};

/// Optional: `std::string identity(std::span<const kto::Example> rows) const` is a text of everything besides its
/// models that its log-probs of `rows` depend on; if it differs, a run cannot be resumed. Without it the public members
/// are compared.
template <class Reference>
concept IdentifiesItself = requires(const Reference& reference, std::span<const Example> rows) {
  { reference.identity(rows) } -> std::same_as<std::string>;
};

namespace detail {
struct AnyModelVisitor {
  template <class Model>
  void operator()(const Model&) const {}
};
template <class Pointer>
concept PointsToModel = requires(const Pointer& pointer) {
  static_cast<bool>(pointer);
  requires HasParameters<std::remove_cvref_t<decltype(*pointer)>>;
};
struct ReferenceHooks {
  int follow, fixes_kl_pairs, starts_as_policy, identity, visit_models;
};
}  // namespace detail

/// Optional: `template <class Visit> void visit_models(const Visit& visit) const` calls visit(model) for each model
/// that the reference holds. The trainer checks that they are not the policy, a resumed run that they are the same. An
/// aggregate without a base does not need it: its members are visited, whatever their names (visit_models below).
template <class Reference>
concept ListsModels = requires(const Reference& reference) { reference.visit_models(detail::AnyModelVisitor{}); };

/// A reference that has members with the names of optional parts. They must match the contract above.
template <class Reference>
concept NamesFollow =
    detail::CanBeBase<Reference> && !requires { &detail::WithNames<Reference, detail::ReferenceHooks>::follow; };
/// Likewise for fixes_kl_pairs.
template <class Reference>
concept NamesFixedKlPairs = detail::CanBeBase<Reference> &&
                            !requires { &detail::WithNames<Reference, detail::ReferenceHooks>::fixes_kl_pairs; };
/// Likewise for starts_as_policy.
template <class Reference>
concept NamesStartsAsPolicy = detail::CanBeBase<Reference> &&
                              !requires { &detail::WithNames<Reference, detail::ReferenceHooks>::starts_as_policy; };
/// Likewise for identity.
template <class Reference>
concept NamesIdentity =
    detail::CanBeBase<Reference> && !requires { &detail::WithNames<Reference, detail::ReferenceHooks>::identity; };
/// Likewise for visit_models.
template <class Reference>
concept NamesVisitModels =
    detail::CanBeBase<Reference> && !requires { &detail::WithNames<Reference, detail::ReferenceHooks>::visit_models; };
/// fixes_kl_pairs is a constant.
template <class Reference>
concept SaysFixedKlPairs = requires { typename std::bool_constant<Reference::fixes_kl_pairs>; };

/// The models of the reference can be found.
template <class Reference>
concept ShowsModels = ListsModels<Reference> || HasFields<Reference>;

/// The contract of a reference: log-probs without gradient, and models that the trainer can find.
template <class Reference, class Model>
concept ReferencePolicy = GivesReferenceLogps<Reference, Model> && HoldsNoGradient<Reference> && ShowsModels<Reference>;

/// Calls visit(model) for each model that `reference` holds: those it lists, or else its members that have parameters
/// or point to something that has.
template <ShowsModels Reference, class Visit>
void visit_models(const Reference& reference, const Visit& visit) {
  if constexpr (ListsModels<Reference>) {
    reference.visit_models(visit);
  } else {
    visit_fields(reference, [&](const auto& member) {
      using Member = std::remove_cvref_t<decltype(member)>;
      if constexpr (HasParameters<Member>) {
        visit(member);
      } else if constexpr (detail::PointsToModel<Member>) {
        if (member) visit(*member);
      }
    });
  }
}

}  // namespace kto
