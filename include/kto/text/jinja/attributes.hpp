// SPDX-License-Identifier: Apache-2.0
// value.name and value[key] as in Jinja's sandbox: a dot tries attributes before keys, brackets try keys before
// attributes, and a value with neither is undefined. Private attributes and methods that change a value are hidden.
#pragma once

#include <string_view>

#include "kto/text/jinja/format.hpp"
#include "kto/text/jinja/loop.hpp"
#include "kto/text/jinja/string_methods.hpp"

namespace kto::jinja {

inline Value get_attribute(Run& run, const Value& object, std::string_view name);
inline Value get_item(Run& run, const Value& object, const Value& key);

inline Value format_method(Run& run, const Value& self, const Arguments& arguments) {
  return keep_like(run, self,
                   Formatter(run, arguments, self.is_markup(), {get_attribute, get_item}).format(self.text()));
}

inline Value format_map_method(Run& run, const Value& self, const Arguments& arguments) {
  const Value mapping = bind<1>("format_map", arguments, {""}, 1)[0];
  check(mapping.is(Kind::dict), "format_map takes a dict, not ", type_name(mapping));
  std::vector<Keyword> named;
  for (const Pair& pair : mapping.dict())
    if (pair.key.is(Kind::string)) named.push_back({pair.key.text(), pair.value});
  return format_method(run, self, {{}, named});
}

template <std::uint8_t part>
Value view_method(Run&, const Value& self, const Arguments& arguments) {
  check_no_arguments("a view of a dict", arguments);
  Value view = self;
  view.kind = Kind::view;
  view.flag = part;
  return view;
}

inline Value copy_method(Run&, const Value& self, const Arguments& arguments) {
  check_no_arguments("copy", arguments);
  return self;
}

inline Value get_method(Run& run, const Value& self, const Arguments& arguments) {
  const auto [key, otherwise] = bind<2>("get", arguments, {"", ""}, 1);
  check_hashable(run, key);
  if (const Value* found = find_key(run, self, key)) return *found;
  return otherwise.is_missing() ? make_none() : otherwise;
}

inline Value sequence_index(Run& run, const Value& self, const Arguments& arguments) {
  const auto [wanted, start, end] = bind<3>("index", arguments, {"", "", ""}, 1);
  const Slice part = resolve_slice(self.size, start, end, {});
  for (std::size_t i = 0; i < part.count; ++i) {
    run.step();
    if (is_equal(run, self.elements[static_cast<std::size_t>(part.start) + i], wanted))
      return make_int(part.start + static_cast<std::int64_t>(i));
  }
  fail("index: the ", type_name(self), " does not contain the value");
}

inline Value sequence_count(Run& run, const Value& self, const Arguments& arguments) {
  const Value wanted = bind<1>("count", arguments, {""}, 1)[0];
  std::int64_t count = 0;
  run.step(self.size);
  for (const Value& element : self.list()) count += is_equal(run, element, wanted) ? 1 : 0;
  return make_int(count);
}

inline Value cycler_next(Run&, const Value& self, const Arguments& arguments) {
  check_no_arguments("next", arguments);
  Cycler& cycler = self.as<Cycler>();
  const Value item = cycler.items[cycler.position];
  cycler.position = (cycler.position + 1) % cycler.items.size();
  return item;
}

inline Value cycler_reset(Run&, const Value& self, const Arguments& arguments) {
  check_no_arguments("reset", arguments);
  self.as<Cycler>().position = 0;
  return make_none();
}

/// Whether this method changes its object; the sandbox hides such methods.
inline Value unsafe_method(Run&, const Value&, const Arguments&) { return {}; }

inline constexpr Function more_string_methods[] = {{"format", format_method}, {"format_map", format_map_method}};
inline constexpr Function sequence_methods[] = {{"index", sequence_index}, {"count", sequence_count}};
inline constexpr Function list_methods[] = {
    {"copy", copy_method},   {"append", unsafe_method},  {"clear", unsafe_method},
    {"pop", unsafe_method},  {"reverse", unsafe_method}, {"insert", unsafe_method},
    {"sort", unsafe_method}, {"extend", unsafe_method},  {"remove", unsafe_method},
};
inline constexpr Function dict_methods[] = {
    {"get", get_method},           {"items", view_method<items>},
    {"keys", view_method<keys>},   {"values", view_method<values>},
    {"copy", copy_method},         {"clear", unsafe_method},
    {"pop", unsafe_method},        {"popitem", unsafe_method},
    {"setdefault", unsafe_method}, {"update", unsafe_method},
};
inline constexpr Function cycler_methods[] = {{"next", cycler_next}, {"reset", cycler_reset}};

inline Native find_function(std::span<const Function> functions, std::string_view name) {
  for (const Function& function : functions)
    if (function.name == name) return function.call;
  return nullptr;
}

/// A name after a dot, with the methods it may refer to looked up once.
struct Attribute {
  std::string_view name;
  Native of_string;
  Native of_sequence;
  Native of_list;
  Native of_dict;
  Native of_cycler;
};

inline Attribute resolve_attribute(std::string_view name) {
  const Native of_string = find_function(string_methods, name);
  return {name,
          of_string != nullptr ? of_string : find_function(more_string_methods, name),
          find_function(sequence_methods, name),
          find_function(list_methods, name),
          find_function(dict_methods, name),
          find_function(cycler_methods, name)};
}

inline Value unsafe_attribute(Run& run, const Value& object, std::string_view name) {
  const std::string hint = concat("the attribute '", name, "' of a value of type ", type_name(object),
                                  " is not available to templates: it is private or changes the value");
  return make_undefined(run, {run.arena.keep(hint), object, make_text(name)});
}

inline Native find_method(const Value& object, const Attribute& attribute) {
  switch (object.kind) {
    case Kind::string:
      return attribute.of_string;
    case Kind::list:
      return attribute.of_list != nullptr ? attribute.of_list : attribute.of_sequence;
    case Kind::tuple:
      return attribute.of_sequence;
    case Kind::dict:
      return attribute.of_dict;
    case Kind::cycler:
      return attribute.of_cycler;
    default:
      return nullptr;
  }
}

/// The attribute only, never a key; missing if there is none.
inline Value find_attribute(Run& run, const Value& object, const Attribute& attribute) {
  const std::string_view name = attribute.name;
  if (const Native method = find_method(object, attribute)) {
    if (method == unsafe_method) return unsafe_attribute(run, object, name);
    return make_object(Kind::method, run.arena.make(Method{name, method, object}));
  }
  if (name.starts_with("__") && name.ends_with("__")) return unsafe_attribute(run, object, name);
  switch (object.kind) {
    case Kind::space: {
      const Value* found = object.as<Namespace>().find(name);
      return found == nullptr ? Value{} : *found;
    }
    case Kind::loop:
      return loop_attribute(run, object, name);
    case Kind::tuple:
      if (object.flag == group && (name == "grouper" || name == "list")) return object.elements[name == "list" ? 1 : 0];
      return {};
    case Kind::boolean:
    case Kind::integer:
      if (name == "real" || name == "numerator") return make_int(number_of(object).integer);
      return name == "imag" || name == "denominator" ? make_int(name == "imag" ? 0 : 1) : Value{};
    case Kind::real:
      return name == "real" ? object : name == "imag" ? make_real(0) : Value{};
    case Kind::range: {
      const Range& range = object.as<Range>();
      if (name == "start" || name == "stop") return make_int(name == "start" ? range.start : range.stop);
      return name == "step" ? make_int(range.step) : Value{};
    }
    case Kind::macro:
      if (name == "arguments") return object.as<Macro>().parameters;
      return name == "name" ? make_text(object.as<Macro>().name) : Value{};
    case Kind::cycler: {
      const Cycler& cycler = object.as<Cycler>();
      return name == "current" ? cycler.items[cycler.position] : Value{};
    }
    default:
      return {};
  }
}

/// object[key] if key is a valid index or an existing key; missing otherwise.
inline Value find_item(Run& run, const Value& object, const Value& key) {
  if (object.is(Kind::dict)) {
    if (key.is(Kind::list) || key.is(Kind::dict)) return {};
    const Value* found = find_key(run, object, key);
    return found == nullptr ? Value{} : *found;
  }
  const Number number = number_of(key);
  if (!number.valid || !number.exact) return {};
  const bool text = object.is(Kind::string);
  if (!text && !object.is_sequence() && !object.is(Kind::range)) return {};
  if (text) run.read(object.size);
  const auto size = static_cast<std::int64_t>(text ? num_chars(object.text()) : object.size);
  const std::int64_t index = number.integer < 0 ? number.integer + size : number.integer;
  if (index < 0 || index >= size) return {};
  const auto at = static_cast<std::size_t>(index);
  if (object.is(Kind::range)) return range_element(object, at);
  if (!text) return object.elements[at];
  std::size_t end = char_offset(object.text(), at);
  const std::size_t begin = end;
  decode(object.text(), end);
  return like(object, object.text().substr(begin, end - begin));
}

inline Value get_attribute(Run& run, const Value& object, const Attribute& attribute) {
  check_defined(object);
  const Value found = find_attribute(run, object, attribute);
  if (!found.is_missing()) return found;
  const Value name = make_text(attribute.name);
  const Value item = object.is(Kind::dict) ? find_item(run, object, name) : Value{};
  return item.is_missing() ? make_undefined(run, {{}, object, name}) : item;
}

/// object.name
inline Value get_attribute(Run& run, const Value& object, std::string_view name) {
  return get_attribute(run, object, resolve_attribute(name));
}

/// object[key]
inline Value get_item(Run& run, const Value& object, const Value& key) {
  check_defined(object);
  const Value item = find_item(run, object, key);
  if (!item.is_missing()) return item;
  if (key.is(Kind::string)) {
    const Value found = find_attribute(run, object, resolve_attribute(key.text()));
    if (!found.is_missing()) return found;
  }
  return make_undefined(run, {{}, object, key});
}

}  // namespace kto::jinja
