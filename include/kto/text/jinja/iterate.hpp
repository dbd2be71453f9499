// SPDX-License-Identifier: Apache-2.0
// Iteration over values: sequences, characters of strings, keys of dicts, generators.
#pragma once

#include <algorithm>
#include <string_view>
#include <vector>

#include "kto/text/jinja/slice.hpp"

namespace kto::jinja {

class Iterator {
 public:
  Iterator() = default;
  explicit Iterator(const Value& source) : source_(source) {}

  bool next(Run& run, Value& out) {
    run.step();
    switch (source_.kind) {
      case Kind::list:
      case Kind::tuple:
        if (at_ == source_.size) return false;
        out = source_.elements[at_++];
        return true;
      case Kind::string: {
        if (at_ == source_.size) return false;
        const std::size_t begin = at_;
        decode(source_.text(), at_);
        out = make_text(source_.text().substr(begin, at_ - begin));
        return true;
      }
      case Kind::dict:
        if (at_ == source_.size) return false;
        out = source_.pairs[at_++].key;
        return true;
      case Kind::view: {
        if (at_ == source_.size) return false;
        const Pair& pair = source_.pairs[at_++];
        out = source_.flag == keys     ? pair.key
              : source_.flag == values ? pair.value
                                       : tuple_of(run, pair.key, pair.value);
        return true;
      }
      case Kind::range:
        if (at_ == source_.size) return false;
        out = range_element(source_, at_++);
        return true;
      case Kind::generator: {
        const Nested nested(run);
        auto& generator = source_.as<Generator>();
        return generator.next(run, generator, out);
      }
      case Kind::undefined:
        return false;
      default:
        fail("a value of type ", type_name(source_), " cannot be iterated over");
    }
  }

  const Value& source() const { return source_; }

 private:
  Value source_;
  std::size_t at_ = 0;
};

inline bool is_iterable(const Value& value) {
  switch (value.kind) {
    case Kind::undefined:
    case Kind::string:
    case Kind::list:
    case Kind::tuple:
    case Kind::dict:
    case Kind::view:
    case Kind::range:
    case Kind::generator:
      return true;
    default:
      return false;
  }
}

/// Throws unless the value is iterable.
inline Iterator iterate(const Value& value) {
  check(is_iterable(value), "a value of type ", type_name(value), " cannot be iterated over");
  return Iterator(value);
}

/// All elements. Those of lists and tuples are not copied.
inline std::span<const Value> elements_of(Run& run, const Value& value) {
  if (value.is_sequence()) return value.list();
  std::vector<Value> out;
  Value element;
  for (Iterator source = iterate(value); source.next(run, element);) out.push_back(element);
  return run.arena.keep(out);
}

/// len(value)
inline std::size_t length_of(const Value& value) {
  switch (value.kind) {
    case Kind::undefined:
      return 0;
    case Kind::string:
      return num_chars(value.text());
    case Kind::list:
    case Kind::tuple:
    case Kind::dict:
    case Kind::view:
    case Kind::range:
      return value.size;
    default:
      fail("a value of type ", type_name(value), " has no length");
  }
}

/// item in container
inline bool contains(Run& run, const Value& container, const Value& item) {
  switch (container.kind) {
    case Kind::string:
      if (!item.is(Kind::string)) check_defined(item);
      check(item.is(Kind::string), "'in' searches a string for ", type_name(item), "; expected a string");
      run.read(container.size);
      return find_text(container.text(), item.text()) != std::string_view::npos;
    case Kind::dict:
      check_hashable(run, item);
      return find_key(run, container, item) != nullptr;
    default:
      break;
  }
  check(is_iterable(container), "'in' does not work on a value of type ", type_name(container));
  Value element;
  for (Iterator source(container); source.next(run, element);)
    if (is_equal(run, element, item)) return true;
  return false;
}

/// An iterator as Python's reversed() gives: runs once, has no length.
struct ListGenerator : Generator {
  std::span<const Value> elements;
  std::size_t at = 0;
};

inline Value make_generator(Run& run, std::span<const Value> elements) {
  ListGenerator generator;
  generator.next = [](Run&, Generator& base, Value& out) {
    auto& self = static_cast<ListGenerator&>(base);
    if (self.at == self.elements.size()) return false;
    out = self.elements[self.at++];
    return true;
  };
  generator.elements = elements;
  return make_object(Kind::generator, run.arena.make(generator));
}

inline Value reversed(Run& run, std::span<const Value> elements) {
  const auto out = run.arena.array<Value>(elements.size());
  std::ranges::reverse_copy(elements, out.begin());
  return make_list(out);
}

}  // namespace kto::jinja
