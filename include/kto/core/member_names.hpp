// SPDX-License-Identifier: Apache-2.0
// Whether a type has a member of some name, whatever that is: an optional part of a contract that is written with
// another signature is then an error, and not ignored.
#pragma once

#include <type_traits>

namespace kto {

namespace detail {

/// In a class of both bases a name that both have is ambiguous: `&WithNames<T, Names>::name` is ill-formed exactly
/// where `T` has a member of that name, be it a function, a template, private or data. `Names` has each name as a data
/// member.
template <class T, class Names>
struct WithNames : T, Names {};

template <class T>
concept CanBeBase = std::is_class_v<T> && !std::is_final_v<T>;

}  // namespace detail

}  // namespace kto
