// SPDX-License-Identifier: Apache-2.0
// The values of a chat template: Python's, as far as templates can see. All are immutable except namespaces, cyclers,
// joiners and generators. Strings are UTF-8; lengths and indices count code points.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string_view>

#include "kto/text/jinja/run.hpp"

namespace kto::jinja {

enum class Kind : std::uint8_t {
  missing,  // a variable or argument that was not given; templates never see it
  undefined,
  none,
  boolean,
  integer,
  big,  // an integer past 64 bits, as its decimal digits: can be printed and compared for equality
  real,
  string,
  list,
  tuple,
  dict,
  range,
  view,       // d.keys(), d.values(), d.items()
  generator,  // runs once, as Python's
  space,      // namespace()
  macro,
  function,
  method,  // a function bound to a value, as in text.split
  loop,
  cycler,
  joiner,
};

enum Flag : std::uint8_t { plain = 0, markup = 1, group = 1, keys = 0, values = 1, items = 2 };

struct Pair;
struct Undefined;

struct Value {
  Kind kind = Kind::missing;
  std::uint8_t flag = plain;  // string: markup (as by the filter "safe"); tuple: group (of groupby); view: keys, ...
  std::uint32_t size = 0;     // string: bytes; list, tuple, dict, view, range: elements
  union {
    std::int64_t integer = 0;
    bool boolean;
    double real;
    const char* chars;
    const Value* elements;
    const Pair* pairs;
    const Undefined* undefined;
    void* object;
  };

  std::string_view text() const { return {chars, size}; }
  std::span<const Value> list() const { return {elements, size}; }
  std::span<const Pair> dict() const;
  template <class T>
  T& as() const {
    return *static_cast<T*>(object);
  }

  bool is(Kind wanted) const { return kind == wanted; }
  bool is_missing() const { return kind == Kind::missing; }
  bool is_markup() const { return kind == Kind::string && flag == markup; }
  bool is_sequence() const { return kind == Kind::list || kind == Kind::tuple; }
};

struct Pair {
  Value key;
  Value value;
};

inline std::span<const Pair> Value::dict() const { return {pairs, size}; }

/// Why a value is undefined: reported if the template does more with it than print or test it.
struct Undefined {
  std::string_view hint;  // the whole reason, or empty
  Value object;           // the object looked into; missing for a variable
  Value name;             // the attribute or key
};

struct Range {
  std::int64_t start;
  std::int64_t stop;
  std::int64_t step;
};

struct Namespace {
  std::span<Pair> storage;
  std::size_t size = 0;

  std::span<const Pair> attributes() const { return storage.first(size); }
  const Value* find(std::string_view name) const {
    for (const Pair& pair : attributes())
      if (pair.key.text() == name) return &pair.value;
    return nullptr;
  }
  void set(Run& run, std::string_view name, const Value& value) {
    if (const Value* old = find(name)) {
      *const_cast<Value*>(old) = value;
      return;
    }
    if (size == storage.size()) {
      const auto larger = run.arena.array<Pair>(size == 0 ? 4 : 2 * size);
      std::ranges::copy(storage, larger.begin());
      storage = larger;
    }
    storage[size++] = {make_key(name), value};
  }

 private:
  static Value make_key(std::string_view name) {
    Value key;
    key.kind = Kind::string;
    key.size = static_cast<std::uint32_t>(name.size());
    key.chars = name.data();
    return key;
  }
};

struct Cycler {
  std::span<const Value> items;
  std::size_t position;
};

struct Joiner {
  Value separator;
  bool used;
};

struct Keyword {
  std::string_view name;
  Value value;
};

struct Arguments {
  std::span<const Value> positional;
  std::span<const Keyword> named;
};

using Native = Value (*)(Run&, const Value& self, const Arguments&);

struct Function {
  std::string_view name;
  Native call;
};

struct Method {
  std::string_view name;
  Native call;
  Value self;
};

struct Statement;
struct MacroDefinition;
struct Scope;

struct Macro {
  std::string_view name;
  const MacroDefinition* definition;
  Scope* scope;      // where it was defined, which its body can see
  Value parameters;  // their names
};

/// A source of values that can be read once. Each kind of generator derives from it and sets `next`.
struct Generator {
  bool (*next)(Run&, Generator&, Value& out) = nullptr;
};

inline std::uint32_t checked_size(std::size_t size) {
  check(size <= UINT32_MAX, "a value of the template has more than 2^32 elements");
  return static_cast<std::uint32_t>(size);
}

inline Value make(Kind kind, std::uint8_t flag = plain, std::size_t size = 0) {
  Value value;
  value.kind = kind;
  value.flag = flag;
  value.size = checked_size(size);
  return value;
}
inline Value make_none() { return make(Kind::none); }
inline Value make_bool(bool boolean) {
  Value value = make(Kind::boolean);
  value.boolean = boolean;
  return value;
}
inline Value make_int(std::int64_t integer) {
  Value value = make(Kind::integer);
  value.integer = integer;
  return value;
}
inline Value make_size(std::size_t size) { return make_int(static_cast<std::int64_t>(size)); }
inline Value make_real(double real) {
  Value value = make(Kind::real);
  value.real = real;
  return value;
}
/// Does not copy the string: it must outlive the rendering (Arena::keep).
inline Value make_text(std::string_view text, std::uint8_t flag = plain) {
  Value value = make(Kind::string, flag, text.size());
  value.chars = text.data();
  return value;
}
inline Value make_sequence(Kind kind, std::span<const Value> elements, std::uint8_t flag = plain) {
  Value value = make(kind, flag, elements.size());
  value.elements = elements.data();
  return value;
}
inline Value make_list(std::span<const Value> elements) { return make_sequence(Kind::list, elements); }
inline Value tuple_of(std::span<const Value> elements) { return make_sequence(Kind::tuple, elements); }
inline Value tuple_of(Run& run, const Value& first, const Value& second, std::uint8_t flag = plain) {
  const auto pair = run.arena.array<Value>(2);
  pair[0] = first;
  pair[1] = second;
  return make_sequence(Kind::tuple, pair, flag);
}
inline Value make_dict(std::span<const Pair> pairs) {
  Value value = make(Kind::dict, plain, pairs.size());
  value.pairs = pairs.data();
  return value;
}
inline Value make_object(Kind kind, void* object, std::size_t size = 0) {
  Value value = make(kind, plain, size);
  value.object = object;
  return value;
}
inline Value make_function(const Function& function) {
  return make_object(Kind::function, const_cast<Function*>(&function));
}

inline Value make_undefined(Run& run, Undefined why) {
  Value value = make(Kind::undefined);
  value.undefined = run.arena.make(why);
  return value;
}
inline Value undefined_variable(Run& run, std::string_view name) {
  return make_undefined(run, {{}, {}, make_text(name)});
}
inline Value undefined_hint(Run& run, std::string_view hint) { return make_undefined(run, {hint, {}, {}}); }

/// Python's name of the type, for messages.
inline std::string_view type_name(const Value& value) {
  switch (value.kind) {
    case Kind::missing:
      return "missing";
    case Kind::undefined:
      return "Undefined";
    case Kind::none:
      return "NoneType";
    case Kind::boolean:
      return "bool";
    case Kind::integer:
    case Kind::big:
      return "int";
    case Kind::real:
      return "float";
    case Kind::string:
      return value.is_markup() ? "Markup" : "str";
    case Kind::list:
      return "list";
    case Kind::tuple:
      return "tuple";
    case Kind::dict:
      return "dict";
    case Kind::range:
      return "range";
    case Kind::view:
      return value.flag == keys ? "dict_keys" : value.flag == values ? "dict_values" : "dict_items";
    case Kind::generator:
      return "generator";
    case Kind::space:
      return "Namespace";
    case Kind::macro:
      return "Macro";
    case Kind::function:
    case Kind::method:
      return "builtin_function_or_method";
    case Kind::loop:
      return "LoopContext";
    case Kind::cycler:
      return "Cycler";
    case Kind::joiner:
      return "Joiner";
  }
  return "object";
}

[[noreturn]] inline void fail_undefined(const Value& value) {
  const Undefined& why = *value.undefined;
  if (!why.hint.empty()) fail(why.hint);
  std::string name = why.name.is(Kind::string) ? concat("'", why.name.text(), "'") : std::string("an element");
  if (why.name.is(Kind::integer)) name = concat("element ", why.name.integer);
  if (why.object.is_missing()) fail(name, " is undefined");
  fail("a value of type ", type_name(why.object), " has no ", why.name.is(Kind::string) ? "attribute or key " : "",
       name);
}

/// Counts the steps of a method, filter or test.
inline void read_subject(Run& run, const Value& subject) {
  if (subject.is(Kind::string)) run.read(subject.size);
}

/// Throws if the value is undefined.
inline void check_defined(const Value& value) {
  if (value.is(Kind::undefined)) fail_undefined(value);
}

}  // namespace kto::jinja
