// SPDX-License-Identifier: Apache-2.0
// The contract of a collator: rows in, Batch out.
#pragma once

#include <concepts>
#include <span>
#include <type_traits>

#include "kto/collate/batch.hpp"
#include "kto/core/member_names.hpp"

namespace kto {

/// `collator(picks, with_kl)` is const and returns a Batch; KL pairs are made only where `with_kl` is set.
template <class Collator>
concept MakesBatches = requires(const Collator& collator, std::span<const Pick> picks, bool with_kl) {
  { collator(picks, with_kl) } -> std::same_as<Batch>;
};

/// Optional: `collator.num_tokens(example)` says how many tokens of prompt and completion a row has in a batch, which
/// must have no padding; max_tokens_per_batch asks for it.
template <class Collator>
concept CountsTokens = requires(const Collator& collator, const Example& example) {
  { collator.num_tokens(example) } -> std::same_as<std::int64_t>;
};

namespace detail {
struct CollatorHooks {
  int num_tokens;
};
}  // namespace detail

/// A collator has a member of that name, and no requires clause that takes it away: it must match the contract above.
template <class Collator>
concept NamesNumTokens =
    detail::CanBeBase<Collator> && !requires { &detail::WithNames<Collator, detail::CollatorHooks>::num_tokens; } &&
    (requires { &Collator::num_tokens; } ||
     requires(const Collator& collator, const Example& example) { collator.num_tokens(example); });

/// The contract of a collator: what it provides, and a call that makes batches.
template <class Collator>
concept CollatorPolicy = DeclaresProvides<Collator> && MakesBatches<Collator>;

/// KL pairs are there where the loss needs them.
template <class Collator, class Loss>
concept FeedsKlPairs =
    !(DeclaresNeeds<Loss> && DeclaresProvides<Collator>) || (Collator::provides.kl_pairs || !Loss::needs.kl_pairs);

/// Rows come in pairs exactly where the loss is one of pairs.
template <class Collator, class Loss>
concept FeedsPairs = !(DeclaresNeeds<Loss> && DeclaresProvides<Collator>) ||
                     (Collator::provides.chosen_rejected == Loss::needs.chosen_rejected);

/// Everything that `Loss` needs of a batch is provided by `Collator`.
template <class Collator, class Loss>
concept FeedsLoss = FeedsKlPairs<Collator, Loss> && FeedsPairs<Collator, Loss>;

/// A model that needs padded rows (`Model::needs`) gets them from `Collator`.
template <class Collator, class Model>
concept FeedsModel = !(DeclaresNeeds<Model> && DeclaresProvides<Collator>) ||
                     (Collator::provides.padded_rows || !Model::needs.padded_rows);

}  // namespace kto
