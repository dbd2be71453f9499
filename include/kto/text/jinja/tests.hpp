// SPDX-License-Identifier: Apache-2.0
// Jinja's tests, which follow "is": defined, string, mapping, equalto, ...
#pragma once

#include <string_view>

#include "kto/text/jinja/iterate.hpp"
#include "kto/text/jinja/percent.hpp"
#include "kto/text/jinja/string_methods.hpp"

namespace kto::jinja {

struct Test {
  std::string_view name;
  bool (*holds)(Run&, const Value&, const Arguments&);
};

/// A test without arguments.
template <auto holds>
bool plain_test(Run&, const Value& value, const Arguments& arguments) {
  check_no_arguments("the test", arguments);
  return holds(value);
}

/// A test with one argument.
template <auto holds>
bool binary_test(Run& run, const Value& value, const Arguments& arguments) {
  return holds(run, value, bind<1>("the test", arguments, {""}, 1)[0]);
}

template <bool upper>
bool case_test(Run& run, const Value& value, const Arguments& arguments) {
  check_no_arguments("the test", arguments);
  return has_case(text_of(run, value), upper);
}

template <auto... kinds>
bool is_one_of(const Value& value) {
  return ((value.kind == kinds) || ...);
}

/// Python's "is". Equal strings and numbers count as identical, which Python leaves open.
inline bool is_same(Run& run, const Value& a, const Value& b) {
  if (a.kind != b.kind || a.size != b.size) return false;
  switch (a.kind) {
    case Kind::list:
    case Kind::tuple:
      return a.elements == b.elements;
    case Kind::dict:
      return a.pairs == b.pairs;
    case Kind::undefined:
      return a.undefined == b.undefined;
    default:
      return is_equal(run, a, b);
  }
}

/// value % divisor, which formats if the value is a string.
inline Value remainder_of(Run& run, const Value& value, const Value& divisor) {
  return value.is(Kind::string) ? format_percent(run, value, divisor) : modulo(value, divisor);
}

template <int rest>
bool parity_test(Run& run, const Value& value, const Arguments& arguments) {
  check_no_arguments("the test", arguments);
  return is_equal(run, remainder_of(run, value, make_int(2)), make_int(rest));
}

inline bool is_equal_test(Run& run, const Value& a, const Value& b) { return is_equal(run, a, b); }
inline bool is_not_equal_test(Run& run, const Value& a, const Value& b) { return !is_equal(run, a, b); }
inline bool is_less_test(Run& run, const Value& a, const Value& b) { return is_less(run, a, b); }
inline bool is_greater_test(Run& run, const Value& a, const Value& b) { return is_less(run, b, a); }
inline bool is_at_most_test(Run& run, const Value& a, const Value& b) { return is_less_or_equal(run, a, b); }
inline bool is_at_least_test(Run& run, const Value& a, const Value& b) { return is_less_or_equal(run, b, a); }
inline bool is_divisible_test(Run& run, const Value& a, const Value& b) {
  return is_equal(run, remainder_of(run, a, b), make_int(0));
}
inline bool is_in_test(Run& run, const Value& a, const Value& b) { return contains(run, b, a); }

inline const Test* find_test(std::string_view name);

inline constexpr Test tests[] = {
    {"defined", plain_test<[](const Value& value) { return !value.is(Kind::undefined); }>},
    {"undefined", plain_test<is_one_of<Kind::undefined>>},
    {"none", plain_test<is_one_of<Kind::none>>},
    {"boolean", plain_test<is_one_of<Kind::boolean>>},
    {"true", plain_test<[](const Value& value) { return value.is(Kind::boolean) && value.boolean; }>},
    {"false", plain_test<[](const Value& value) { return value.is(Kind::boolean) && !value.boolean; }>},
    {"integer", plain_test<is_one_of<Kind::integer, Kind::big>>},
    {"float", plain_test<is_one_of<Kind::real>>},
    {"number", plain_test<is_one_of<Kind::boolean, Kind::integer, Kind::big, Kind::real>>},
    {"string", plain_test<is_one_of<Kind::string>>},
    {"mapping", plain_test<is_one_of<Kind::dict>>},
    {"sequence",
     plain_test<is_one_of<Kind::undefined, Kind::string, Kind::list, Kind::tuple, Kind::dict, Kind::range>>},
    {"iterable", plain_test<[](const Value& value) { return is_iterable(value) || value.is(Kind::loop); }>},
    {"callable",
     plain_test<is_one_of<Kind::undefined, Kind::macro, Kind::function, Kind::method, Kind::loop, Kind::joiner>>},
    {"escaped", plain_test<[](const Value& value) { return value.is_markup(); }>},
    {"lower", case_test<false>},
    {"upper", case_test<true>},
    {"odd", parity_test<1>},
    {"even", parity_test<0>},
    {"divisibleby", binary_test<is_divisible_test>},
    {"sameas", binary_test<is_same>},
    {"in", binary_test<is_in_test>},
    {"eq", binary_test<is_equal_test>},
    {"equalto", binary_test<is_equal_test>},
    {"==", binary_test<is_equal_test>},
    {"ne", binary_test<is_not_equal_test>},
    {"!=", binary_test<is_not_equal_test>},
    {"lt", binary_test<is_less_test>},
    {"lessthan", binary_test<is_less_test>},
    {"<", binary_test<is_less_test>},
    {"gt", binary_test<is_greater_test>},
    {"greaterthan", binary_test<is_greater_test>},
    {">", binary_test<is_greater_test>},
    {"le", binary_test<is_at_most_test>},
    {"<=", binary_test<is_at_most_test>},
    {"ge", binary_test<is_at_least_test>},
    {">=", binary_test<is_at_least_test>},
    {"test",
     [](Run& run, const Value& value, const Arguments& arguments) {
       check_no_arguments("the test", arguments);
       return find_test(text_of(run, value)) != nullptr;
     }},
};

/// The test called `name`, or null.
inline const Test* find_test(std::string_view name) {
  for (const Test& test : tests)
    if (test.name == name) return &test;
  return nullptr;
}

}  // namespace kto::jinja
