// SPDX-License-Identifier: Apache-2.0
// Checks the contracts of the slots and how they fit together. Each requirement is one static_assert whose text says
// what to write and which file has the contract; it is the first and only error of the compiler.
#pragma once

#include "kto/collate/concept.hpp"
#include "kto/loss/concept.hpp"
#include "kto/model/concept.hpp"
#include "kto/optim/concept.hpp"
#include "kto/reference/concept.hpp"

namespace kto {

/// That of a loss alone.
template <class Loss>
struct LossContract {
  static_assert(DeclaresNeeds<Loss>,
                "kto: write `static constexpr kto::BatchParts needs{...};` in your loss; see kto/loss/concept.hpp");
  static_assert(MapsInputToTerms<Loss, Tensor>,
                "kto: write `template <class Array> kto::LossTerms<Array> operator()(const kto::LossInput<Array>&) "
                "const` in your loss; see kto/loss/concept.hpp");
  // Optional parts with a wrong signature, which would be ignored
  static_assert(!NamesObserve<Loss> || Observes<Loss, Tensor>,
                "kto: your loss has another `observe` than `template <class Array> void observe(const "
                "kto::LossInput<Array>&)`, and it would never be called; see kto/loss/concept.hpp");
  static_assert(!NamesMetrics<Loss> || ReportsMetrics<Loss, Tensor>,
                "kto: your loss has another `metrics` than `template <class Array> kto::NamedScalars<Array> "
                "metrics(const kto::LossInput<Array>&, const kto::LossTerms<Array>&) const`, and it would never be "
                "called; see kto/loss/concept.hpp");
  static_assert(!NamesVisitState<Loss> || HasState<Loss>,
                "kto: your loss has another `visit_state` than `template <class Archive> void visit_state(Archive&)`, "
                "and its state would not be saved; see kto/io/state.hpp");
};

template <class Model, class Collator, class Loss, class Reference, class Optimizer>
struct TrainerContract {
  static_assert(HasParameters<Model>,
                "kto: write `kto::NamedTensors named_parameters() const` in your model; see kto/model/concept.hpp");
  static_assert(GivesHidden<Model> || GivesLogits<Model>,
                "kto: write `kto::Tensor hidden(const kto::Sequences&) const` and `kto::Head head() const`, or "
                "`kto::Tensor logits(const kto::Sequences&) const`, in your model; see kto/model/concept.hpp");
  static_assert(DeclaresProvides<Collator>,
                "kto: write `static constexpr kto::BatchParts provides{...};` in your collator; "
                "see kto/collate/concept.hpp");
  static_assert(MakesBatches<Collator>,
                "kto: write `kto::Batch operator()(std::span<const kto::Pick>, bool with_kl) const` in your collator; "
                "see kto/collate/concept.hpp");
  static_assert(sizeof(LossContract<Loss>) > 0);
  static_assert(GivesReferenceLogps<Reference, Model>,
                "kto: write `kto::ReferenceLogps log_probs(const Model&, const kto::Batch&) const` in your reference; "
                "see kto/reference/concept.hpp");
  static_assert(HoldsNoGradient<Reference>,
                "kto: a reference must not track gradients: hold a frozen copy (kto::live_reference) and drop "
                "`tracks_gradient = true`; see kto/reference/concept.hpp");
  static_assert(!GivesReferenceLogps<Reference, Model> || ShowsModels<Reference>,
                "kto: the members of your reference cannot be listed (a base class, an array, or private): write "
                "`template <class Visit> void visit_models(const Visit&) const` in it, and call visit(model) for each "
                "model that it holds; see kto/reference/concept.hpp");
  static_assert(UpdatesParameters<Optimizer>,
                "kto: write `void step(kto::FlatParameters&, const kto::Update&)` in your optimizer; "
                "see kto/optim/concept.hpp");
  static_assert(FeedsKlPairs<Collator, Loss>,
                "kto: your loss needs KL pairs but your collator makes none: write `provides{.kl_pairs = true}` and "
                "fill Batch::kl_rows, or use kto::PackedCollator; see kto/collate/concept.hpp");
  static_assert(
      FeedsPairs<Collator, Loss>,
      "kto: your loss and your collator disagree on pairs: a loss with `needs{.chosen_rejected = true}` needs "
      "kto::PairedCollator, any other loss an unpaired one; see kto/collate/concept.hpp");
  static_assert(FeedsModel<Collator, Model>,
                "kto: your model needs padded rows: use `kto::PaddedCollator`; see kto/collate/concept.hpp");

  // Optional parts with a wrong signature, which would be ignored
  static_assert(!NamesFollow<Reference> || FollowsPolicy<Reference, Model>,
                "kto: your reference has another `follow` than `void follow(const Model& policy, std::int64_t step)`, "
                "and it would never move; see kto/reference/concept.hpp");
  static_assert(!NamesVisitState<Reference> || ReferenceHasState<Reference, Model>,
                "kto: your reference has another `visit_state` than `template <class Archive> void "
                "visit_state(Archive&, const Model& policy)`, and its state would not be saved; see "
                "kto/reference/concept.hpp");
  static_assert(!NamesNoise<Model> || TakesNoise<Model>,
                "kto: your model has another `neftune_noise_alpha` than `double neftune_noise_alpha`, and it would "
                "never be set; see kto/model/concept.hpp");
  static_assert(!NamesStartsAsPolicy<Reference> || SaysStartsAsPolicy<Reference>,
                "kto: your reference has another `starts_as_policy` than `bool starts_as_policy`, and it would be "
                "ignored; see kto/reference/concept.hpp");
  static_assert(!NamesIdentity<Reference> || IdentifiesItself<Reference>,
                "kto: your reference has another `identity` than `std::string identity(std::span<const kto::Example>) "
                "const`, and a resumed run would not be compared by it; see kto/reference/concept.hpp");
  static_assert(!NamesVisitModels<Reference> || ListsModels<Reference>,
                "kto: your reference has another `visit_models` than `template <class Visit> void visit_models(const "
                "Visit&) const`, and its models would not be checked; see kto/reference/concept.hpp");
  static_assert(!NamesFixedKlPairs<Reference> || SaysFixedKlPairs<Reference>,
                "kto: your reference has another `fixes_kl_pairs` than `static constexpr bool fixes_kl_pairs = true;`, "
                "and it would be ignored; see kto/reference/concept.hpp");
  static_assert(!NamesNumTokens<Collator> || CountsTokens<Collator>,
                "kto: your collator has another `num_tokens` than `std::int64_t num_tokens(const kto::Example&) "
                "const`, and it would never be called; see kto/collate/concept.hpp");
  static_assert(!NamesPrepare<Optimizer> || PreparesState<Optimizer>,
                "kto: your optimizer has another `prepare` than `void prepare(const kto::FlatParameters&)`, and it "
                "would never be called; see kto/optim/concept.hpp");
  static_assert(!NamesVisitState<Optimizer> || HasState<Optimizer>,
                "kto: your optimizer has another `visit_state` than `template <class Archive> void "
                "visit_state(Archive&)`, and its state would not be saved; see kto/io/state.hpp");
};

}  // namespace kto
