// SPDX-License-Identifier: Apache-2.0
// Whether a type has a member of some name, of whatever kind. With it, an optional part of a contract that has the
// wrong signature is an error instead of being ignored.
#pragma once

#include <type_traits>

namespace kto {

namespace detail {

/// A class derived from T and from `Names`, which has each name as a data member. A name that both bases have is
/// ambiguous, so `&WithNames<T, Names>::name` is ill-formed exactly when `T` has a member of that name: function,
/// template or data, public or private.
template <class T, class Names>
struct WithNames : T, Names {};

template <class T>
concept CanBeBase = std::is_class_v<T> && !std::is_final_v<T>;

}  // namespace detail

}  // namespace kto
