// SPDX-License-Identifier: Apache-2.0
// Visits the members of an aggregate (policies are aggregates) without listing them. C++20 has no reflection; counting
// initialisers and structured bindings are enough for structs of up to 20 members.
#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>

namespace kto {

namespace detail {

inline constexpr std::size_t most_fields = 20;

/// Converts to any type. For unevaluated expressions only.
struct AnyField {
  template <class T>
    requires std::is_copy_constructible_v<T>
  operator T&() const;
  template <class T>
    requires(!std::is_copy_constructible_v<T>)
  operator T() const;
};
/// Converts only to a base of `Derived`.
template <class Derived>
struct AnyBase {
  template <class T>
    requires(std::is_base_of_v<T, Derived> && !std::is_same_v<T, Derived>)
  operator T&() const;
};
template <std::size_t>
using AnyFieldAt = AnyField;

template <class T, std::size_t... I>
constexpr bool takes(std::index_sequence<I...>) {
  return requires { T{AnyFieldAt<I>{}...}; };
}
/// Whether member sizeof...(I) can be initialised with braces of its own while all later members still get theirs.
/// This fails for elements of an array, so it detects array members.
template <class T, std::size_t... I, std::size_t... J>
constexpr bool takes_braced(std::index_sequence<I...>, std::index_sequence<J...>) {
  return requires { T{AnyFieldAt<I>{}..., {}, AnyFieldAt<J>{}...}; } ||
         requires { T{AnyFieldAt<I>{}..., {AnyField{}}, AnyFieldAt<J>{}...}; };
}
template <class T, std::size_t N, std::size_t... I>
constexpr bool has_no_array(std::index_sequence<I...>) {
  return (takes_braced<T>(std::make_index_sequence<I>{}, std::make_index_sequence<N - I - 1>{}) && ...);
}
template <class T, std::size_t N = most_fields + 1>
constexpr std::size_t count_initializers() {
  if constexpr (N == 0 || takes<T>(std::make_index_sequence<N>{}))
    return N;
  else
    return count_initializers<T, N - 1>();
}
template <class T>
constexpr bool has_base() {
  return requires { T{AnyBase<T>{}}; };
}

/// The number of members of `T`, or -1 if unknown: T is not an aggregate, or has a base, an array or too many members.
template <class T>
constexpr int count_fields() {
  if constexpr (std::is_empty_v<T> && std::is_class_v<T>) {
    return 0;
  } else if constexpr (!std::is_class_v<T> || !std::is_aggregate_v<T>) {
    return -1;
  } else if constexpr (has_base<T>()) {
    return -1;
  } else {
    constexpr std::size_t count = count_initializers<T>();
    if constexpr (count > 0 && count <= most_fields)
      if constexpr (has_no_array<T, count>(std::make_index_sequence<count>{})) return static_cast<int>(count);
    return -1;
  }
}

}  // namespace detail

/// A type whose members visit_fields can go through.
template <class T>
concept HasFields = detail::count_fields<T>() >= 0;

/// Calls visit(member) for each member of `x`, in order.
template <HasFields T, class Visit>
void visit_fields(const T& x, const Visit& visit) {
  constexpr int count = detail::count_fields<T>();
  const auto all = [&](const auto&... field) { (visit(field), ...); };
  if constexpr (count == 1) {
    const auto& [a] = x;
    all(a);
  } else if constexpr (count == 2) {
    const auto& [a, b] = x;
    all(a, b);
  } else if constexpr (count == 3) {
    const auto& [a, b, c] = x;
    all(a, b, c);
  } else if constexpr (count == 4) {
    const auto& [a, b, c, d] = x;
    all(a, b, c, d);
  } else if constexpr (count == 5) {
    const auto& [a, b, c, d, e] = x;
    all(a, b, c, d, e);
  } else if constexpr (count == 6) {
    const auto& [a, b, c, d, e, f] = x;
    all(a, b, c, d, e, f);
  } else if constexpr (count == 7) {
    const auto& [a, b, c, d, e, f, g] = x;
    all(a, b, c, d, e, f, g);
  } else if constexpr (count == 8) {
    const auto& [a, b, c, d, e, f, g, h] = x;
    all(a, b, c, d, e, f, g, h);
  } else if constexpr (count == 9) {
    const auto& [a, b, c, d, e, f, g, h, i] = x;
    all(a, b, c, d, e, f, g, h, i);
  } else if constexpr (count == 10) {
    const auto& [a, b, c, d, e, f, g, h, i, j] = x;
    all(a, b, c, d, e, f, g, h, i, j);
  } else if constexpr (count == 11) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k] = x;
    all(a, b, c, d, e, f, g, h, i, j, k);
  } else if constexpr (count == 12) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l] = x;
    all(a, b, c, d, e, f, g, h, i, j, k, l);
  } else if constexpr (count == 13) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m] = x;
    all(a, b, c, d, e, f, g, h, i, j, k, l, m);
  } else if constexpr (count == 14) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n] = x;
    all(a, b, c, d, e, f, g, h, i, j, k, l, m, n);
  } else if constexpr (count == 15) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o] = x;
    all(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o);
  } else if constexpr (count == 16) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = x;
    all(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p);
  } else if constexpr (count == 17) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q] = x;
    all(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q);
  } else if constexpr (count == 18) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r] = x;
    all(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r);
  } else if constexpr (count == 19) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s] = x;
    all(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s);
  } else if constexpr (count == 20) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t] = x;
    all(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t);
  }
}

}  // namespace kto
