// SPDX-License-Identifier: Apache-2.0
// Python's operators on values: truth, equality, order and arithmetic.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "kto/text/jinja/print.hpp"

namespace kto::jinja {

inline bool is_true(const Value& value) {
  switch (value.kind) {
    case Kind::missing:
    case Kind::undefined:
    case Kind::none:
      return false;
    case Kind::boolean:
      return value.boolean;
    case Kind::integer:
      return value.integer != 0;
    case Kind::real:
      return value.real != 0;
    case Kind::string:
    case Kind::list:
    case Kind::tuple:
    case Kind::dict:
    case Kind::range:
    case Kind::view:
      return value.size != 0;
    default:
      return true;
  }
}

/// bool, int or float as a number; integers stay exact.
struct Number {
  bool valid = false;
  bool exact = true;
  std::int64_t integer = 0;
  double real = 0;
};

inline Number number_of(const Value& value) {
  switch (value.kind) {
    case Kind::boolean:
      return {true, true, value.boolean, value.boolean ? 1.0 : 0.0};
    case Kind::integer:
      return {true, true, value.integer, static_cast<double>(value.integer)};
    case Kind::real:
      return {true, false, 0, value.real};
    default:
      return {};
  }
}

inline bool is_equal(Run& run, const Value& a, const Value& b) {
  if (const Number x = number_of(a), y = number_of(b); x.valid && y.valid)
    return x.exact && y.exact ? x.integer == y.integer : x.real == y.real;
  if (a.kind != b.kind) return false;
  if (a.size != b.size) return false;
  switch (a.kind) {
    case Kind::undefined:
    case Kind::none:
      return true;
    case Kind::string:
    case Kind::big:
      run.read(a.size);
      return a.text() == b.text();
    case Kind::list:
    case Kind::tuple: {
      const Nested nested(run);
      run.step(a.size);
      for (std::size_t i = 0; i < a.size; ++i)
        if (!is_equal(run, a.elements[i], b.elements[i])) return false;
      return true;
    }
    case Kind::dict: {
      const Nested nested(run);
      for (const Pair& pair : a.dict()) {
        bool found = false;
        for (const Pair& other : b.dict()) {
          run.step();
          if (!is_equal(run, pair.key, other.key)) continue;
          found = is_equal(run, pair.value, other.value);
          break;
        }
        if (!found) return false;
      }
      return true;
    }
    case Kind::range: {
      const Range &x = a.as<Range>(), &y = b.as<Range>();
      return a.size == 0 || (x.start == y.start && (a.size == 1 || x.step == y.step));
    }
    default:
      return a.object == b.object;
  }
}

[[noreturn]] inline void fail_operands(std::string_view op, const Value& a, const Value& b) {
  check_defined(a);
  check_defined(b);
  check(!a.is(Kind::big) && !b.is(Kind::big), "an integer of the template exceeds 64 bits");
  fail("'", op, "' does not work on ", type_name(a), " and ", type_name(b));
}

/// a < b, for texts, numbers, and lists or tuples of them.
inline bool is_less(Run& run, const Value& a, const Value& b, std::string_view op = "<") {
  if (const Number x = number_of(a), y = number_of(b); x.valid && y.valid)
    return x.exact && y.exact ? x.integer < y.integer : x.real < y.real;
  if (a.is(Kind::string) && b.is(Kind::string)) {
    run.read(std::min(a.size, b.size));
    return a.text() < b.text();  // UTF-8 keeps the order of code points
  }
  if (!a.is_sequence() || a.kind != b.kind) fail_operands(op, a, b);
  const Nested nested(run);
  for (std::size_t i = 0; i < a.size && i < b.size; ++i) {
    run.step();
    if (!is_equal(run, a.elements[i], b.elements[i])) return is_less(run, a.elements[i], b.elements[i], op);
  }
  return a.size < b.size;
}

/// a <= b; differs from !(b < a) for NaN.
inline bool is_less_or_equal(Run& run, const Value& a, const Value& b, std::string_view op = "<=") {
  const bool less = is_less(run, a, b, op);
  return less || is_equal(run, a, b);
}

/// A stable sort. `less` may be inconsistent (NaN) or throw.
template <class T, class Less>
void sort_stably(std::vector<T>& sorted, Less less) {
  std::vector<T> merged(sorted.size());
  for (std::size_t width = 1; width < sorted.size(); width *= 2) {
    const auto at = [&](std::size_t i) {
      return sorted.begin() + static_cast<std::ptrdiff_t>(std::min(i, sorted.size()));
    };
    auto out = merged.begin();
    for (std::size_t i = 0; i < sorted.size(); i += 2 * width)
      out = std::merge(at(i), at(i + width), at(i + width), at(i + 2 * width), out, less);
    sorted.swap(merged);
  }
}

/// An integer, as Python requires of indices and counts.
inline std::int64_t index_of(const Value& value, std::string_view what) {
  check_defined(value);
  const Number number = number_of(value);
  check(number.valid && number.exact, what, " is ", type_name(value), "; expected an integer");
  return number.integer;
}

inline Value concatenated(Run& run, std::string_view a, std::string_view b, std::uint8_t flag = plain) {
  run.check_length(a.size() + b.size());
  if (a.empty()) return make_text(b, flag);
  if (b.empty()) return make_text(a, flag);
  char* out = static_cast<char*>(run.arena.take(a.size() + b.size()));
  std::memcpy(out, a.data(), a.size());
  std::memcpy(out + a.size(), b.data(), b.size());
  return make_text({out, a.size() + b.size()}, flag);
}

inline Value concatenated(Run& run, const Value& a, const Value& b) {
  const auto joined = run.arena.array<Value>(std::size_t{a.size} + b.size);
  std::copy(a.list().begin(), a.list().end(), joined.begin());
  std::copy(b.list().begin(), b.list().end(), joined.begin() + a.size);
  return make_sequence(a.kind, joined);
}

inline Value repeated(Run& run, const Value& value, std::int64_t times) {
  const std::size_t count = times > 0 ? static_cast<std::size_t>(times) : 0;
  if (count == 0 || value.size == 0) {
    Value empty = value;
    empty.size = 0;
    return empty;
  }
  check(count <= run.limits.output_bytes / value.size, "the template repeats a value ", count, " times: too long");
  if (value.is(Kind::string)) {
    std::string out;
    out.reserve(count * value.size);
    for (std::size_t i = 0; i < count; ++i) out += value.text();
    return keep_text(run, out, value.flag);
  }
  const auto out = run.arena.array<Value>(count * value.size);
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = value.elements[i % value.size];
  return make_sequence(value.kind, out);
}

/// `name` of two numbers: whole(x, y, out) of integers, which returns true where 64 bits do not hold the result, or
/// real(x, y).
template <class Whole, class Real>
Value of_numbers(const char* name, const Value& a, const Value& b, const Whole& whole, const Real& real) {
  const Number x = number_of(a), y = number_of(b);
  if (!x.valid || !y.valid) fail_operands(name, a, b);
  if (!x.exact || !y.exact) return make_real(real(x.real, y.real));
  std::int64_t out = 0;
  check(!whole(x.integer, y.integer, &out), "an integer of the template exceeds 64 bits");
  return make_int(out);
}

inline Value add(Run& run, const Value& a, const Value& b) {
  if (a.is(Kind::string) && b.is(Kind::string)) {
    if (a.flag == plain && b.flag == plain) return concatenated(run, a.text(), b.text());
    return concatenated(run, escape(run, a).text(), escape(run, b).text(), markup);
  }
  if (a.is_sequence() && a.kind == b.kind) return concatenated(run, a, b);
  const auto whole = [](auto x, auto y, auto* out) { return __builtin_add_overflow(x, y, out); };
  return of_numbers("+", a, b, whole, std::plus<double>());
}

inline Value subtract(const Value& a, const Value& b) {
  const auto whole = [](auto x, auto y, auto* out) { return __builtin_sub_overflow(x, y, out); };
  return of_numbers("-", a, b, whole, std::minus<double>());
}

inline Value multiply(Run& run, const Value& a, const Value& b) {
  const auto repeats = [](const Value& value) { return value.is(Kind::string) || value.is_sequence(); };
  const Number x = number_of(a), y = number_of(b);
  if (repeats(a) && y.valid && y.exact) return repeated(run, a, y.integer);
  if (repeats(b) && x.valid && x.exact) return repeated(run, b, x.integer);
  const auto whole = [](auto left, auto right, auto* out) { return __builtin_mul_overflow(left, right, out); };
  return of_numbers("*", a, b, whole, std::multiplies<double>());
}

inline Value divide(const Value& a, const Value& b) {
  const Number x = number_of(a), y = number_of(b);
  if (!x.valid || !y.valid) fail_operands("/", a, b);
  check(y.real != 0, "division by zero");
  return make_real(x.real / y.real);
}

/// Rounds down, as Python's // does.
inline Value floor_divide(const Value& a, const Value& b) {
  const Number x = number_of(a), y = number_of(b);
  if (!x.valid || !y.valid) fail_operands("//", a, b);
  check(y.real != 0, "division by zero");
  if (!x.exact || !y.exact) {
    const double rest = std::fmod(x.real, y.real);
    double quotient = (x.real - rest) / y.real;
    if (rest != 0 && (rest < 0) != (y.real < 0)) quotient -= 1;
    double down = std::floor(quotient);
    if (quotient - down > 0.5) down += 1;
    return make_real(quotient == 0 ? std::copysign(0.0, x.real / y.real) : down);
  }
  check(y.integer != -1 || x.integer != INT64_MIN, "an integer of the template exceeds 64 bits");
  const std::int64_t quotient = x.integer / y.integer;
  const bool inexact = x.integer % y.integer != 0;
  return make_int(quotient - (inexact && (x.integer < 0) != (y.integer < 0) ? 1 : 0));
}

/// The result has the sign of the divisor, as with Python's %.
inline Value modulo(const Value& a, const Value& b) {
  const Number x = number_of(a), y = number_of(b);
  if (!x.valid || !y.valid) fail_operands("%", a, b);
  check(y.real != 0, "division by zero");
  if (!x.exact || !y.exact) {
    double rest = std::fmod(x.real, y.real);
    if (rest != 0 && (rest < 0) != (y.real < 0)) rest += y.real;
    return make_real(rest == 0 ? std::copysign(0.0, y.real) : rest);
  }
  if (y.integer == -1) return make_int(0);
  const std::int64_t rest = x.integer % y.integer;
  return make_int(rest != 0 && (rest < 0) != (y.integer < 0) ? rest + y.integer : rest);
}

inline Value power(const Value& a, const Value& b) {
  const Number x = number_of(a), y = number_of(b);
  if (!x.valid || !y.valid) fail_operands("**", a, b);
  if (!x.exact || !y.exact || y.integer < 0) {
    check(x.real != 0 || y.real >= 0, "0 cannot be raised to a negative power");
    check(x.real >= 0 || y.real == std::floor(y.real), "a power of a negative number is not a real number");
    const double result = std::pow(x.real, y.real);
    check(std::isfinite(result) || !std::isfinite(x.real) || !std::isfinite(y.real), "a power is too large");
    return make_real(result);
  }
  std::int64_t result = 1;
  std::int64_t base = x.integer;
  for (std::int64_t left = y.integer; left > 0; left >>= 1) {
    bool overflow = (left & 1) != 0 && __builtin_mul_overflow(result, base, &result);
    if (left > 1) overflow = __builtin_mul_overflow(base, base, &base) || overflow;
    check(!overflow, "an integer of the template exceeds 64 bits");
  }
  return make_int(result);
}

inline Value negate(const Value& value, bool minus) {
  const Number number = number_of(value);
  if (!number.valid) check_defined(value);
  check(number.valid, "unary ", minus ? "-" : "+", " does not work on ", type_name(value));
  if (!number.exact) return make_real(minus ? -number.real : number.real);
  return minus ? subtract(make_int(0), value) : make_int(number.integer);
}

}  // namespace kto::jinja
