// SPDX-License-Identifier: Apache-2.0
// The contract of a collator: rows in, Batch out.
#pragma once

#include <concepts>
#include <span>
#include <type_traits>

#include "kto/collate/batch.hpp"
#include "kto/loss/concept.hpp"

namespace kto {

/// A collator says what its batches hold: `static constexpr kto::BatchParts provides{...};`
template <class Collator>
concept DeclaresProvides = requires {
  { std::remove_cvref_t<decltype(Collator::provides)>(Collator::provides) } -> std::same_as<BatchParts>;
  typename std::bool_constant<Collator::provides.kl_pairs>;
};

/// `collator(picks, with_kl)` is const and returns a Batch; KL pairs are made only where `with_kl` is set.
template <class Collator>
concept MakesBatches = requires(const Collator& collator, std::span<const Pick> picks, bool with_kl) {
  { collator(picks, with_kl) } -> std::same_as<Batch>;
};

template <class Collator>
concept CollatorPolicy = DeclaresProvides<Collator> && MakesBatches<Collator>;

/// Everything that `Loss` needs of a batch is provided by `Collator`.
template <class Collator, class Loss>
concept FeedsLoss = (Collator::provides.kl_pairs || !Loss::needs.kl_pairs) &&
                    (Collator::provides.chosen_rejected == Loss::needs.chosen_rejected);

}  // namespace kto
