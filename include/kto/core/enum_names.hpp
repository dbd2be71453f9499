// SPDX-License-Identifier: Apache-2.0
// The names of an enum's values, as its definition spells them, without a second list of them. C++20 has no reflection;
// the compiler writes them into the names of functions.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>
#include <type_traits>
#include <utility>

namespace kto {

namespace detail {

/// "window" for KlScope::window; empty where the enum names no such value.
template <auto Value>
constexpr std::string_view enumerator_name() {
  std::string_view text =
      __PRETTY_FUNCTION__;  // "... [with auto Value = kto::KlScope::window; ...]", or "(kto::KlScope)2"
  text = text.substr(text.rfind("Value = "));
  text = text.substr(0, text.find_first_of(";]"));
  return text.find('(') == text.npos ? text.substr(text.rfind(':') + 1) : std::string_view();
}

template <class Enum, std::size_t N = 0>
constexpr std::size_t count_enumerators() {
  if constexpr (enumerator_name<static_cast<Enum>(N)>().empty())
    return N;
  else
    return count_enumerators<Enum, N + 1>();
}

template <class Enum, std::size_t... I>
constexpr std::array<std::string_view, sizeof...(I)> enumerator_names(std::index_sequence<I...>) {
  return {enumerator_name<static_cast<Enum>(I)>()...};
}

}  // namespace detail

/// The names of the values of a scoped enum, which count from 0. Specialise it for an enum whose users spell its values
/// as C++ cannot, such as "auto".
template <class Enum>
inline constexpr auto enum_names =
    detail::enumerator_names<Enum>(std::make_index_sequence<detail::count_enumerators<Enum>()>{});

/// The name of one value.
template <class Enum>
  requires std::is_enum_v<Enum>
constexpr std::string_view enum_name(Enum value) {
  return enum_names<Enum>[static_cast<std::size_t>(value)];
}

}  // namespace kto
