// SPDX-License-Identifier: Apache-2.0
// Needs across the slots as data: what a loss or a model asks of a batch, and what a collator puts into it.
// Free of LibTorch, so that losses are.
#pragma once

#include <concepts>
#include <type_traits>

namespace kto {

/// What a loss or a model needs of a batch (`needs`), and what a collator provides (`provides`).
struct BatchParts {
  bool kl_pairs = false;         ///< mismatched (prompt, other completion) pairs, for the KL baseline z0
  bool chosen_rejected = false;  ///< rows come in pairs: the first half chosen, the second half rejected, same prompts
  bool padded_rows = false;      ///< all rows are of one length, so that they make a matrix
};

/// A loss (or a model) says what it needs of a batch: `static constexpr kto::BatchParts needs{...};`
template <class T>
concept DeclaresNeeds = requires {
  requires std::same_as<std::remove_cvref_t<decltype(T::needs)>, BatchParts>;
  typename std::bool_constant<T::needs.kl_pairs>;  // a constant expression
};

/// A collator says what its batches hold: `static constexpr kto::BatchParts provides{...};`
template <class T>
concept DeclaresProvides = requires {
  requires std::same_as<std::remove_cvref_t<decltype(T::provides)>, BatchParts>;
  typename std::bool_constant<T::provides.kl_pairs>;
};

}  // namespace kto
