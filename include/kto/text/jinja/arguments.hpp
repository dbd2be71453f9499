// SPDX-License-Identifier: Apache-2.0
// Arguments of functions, filters and methods: matched to parameter names, and converted to the expected types.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kto/text/jinja/operators.hpp"

namespace kto::jinja {

/// The arguments in the order of `names`, missing if not given. A parameter with an empty name is positional only.
/// Throws if arguments are too few (less than `required`), too many, given twice or unknown.
template <std::size_t Count>
std::array<Value, Count> bind(std::string_view function, const Arguments& arguments,
                              const std::array<std::string_view, Count>& names, std::size_t required = 0) {
  std::array<Value, Count> bound{};
  check(arguments.positional.size() <= Count, function, "() takes at most ", Count, " arguments; ",
        arguments.positional.size(), " were given");
  std::copy(arguments.positional.begin(), arguments.positional.end(), bound.begin());
  for (const Keyword& keyword : arguments.named) {
    std::size_t i = 0;
    while (i < Count && (names[i].empty() || names[i] != keyword.name)) ++i;
    check(i < Count, function, "() has no argument named '", keyword.name, "'");
    check(bound[i].is_missing(), function, "() is given '", keyword.name, "' twice");
    bound[i] = keyword.value;
  }
  for (std::size_t i = 0; i < required; ++i)
    check(!bound[i].is_missing(), function, "() needs argument ", i + 1, names[i].empty() ? "" : " ", names[i]);
  return bound;
}

inline void check_no_arguments(std::string_view function, const Arguments& arguments) {
  check(arguments.positional.empty() && arguments.named.empty(), function, " takes no arguments");
}

/// A string, as Python's str methods require of their arguments.
inline std::string_view string_of(const Value& value, std::string_view what) {
  check_defined(value);
  check(value.is(Kind::string), what, " is ", type_name(value), "; expected a string");
  return value.text();
}

inline std::int64_t index_or(const Value& value, std::int64_t otherwise, std::string_view what) {
  return value.is_missing() ? otherwise : index_of(value, what);
}

}  // namespace kto::jinja
