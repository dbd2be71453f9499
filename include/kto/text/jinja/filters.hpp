// SPDX-License-Identifier: Apache-2.0
// The table of all filters, and the filters that apply filters or tests to each element: map, select, reject. These
// are generators, as in Python: lazy, and they can be read only once.
#pragma once

#include <string_view>

#include "kto/text/jinja/sequence_filters.hpp"
#include "kto/text/jinja/tests.hpp"
#include "kto/text/jinja/text_filters.hpp"

namespace kto::jinja {

using Filter = Function;  // `self` is the value that is filtered

inline const Filter* find_filter(std::string_view name);

struct MapGenerator : Generator {
  Iterator source;
  Value attribute;  // the attribute to look up; missing if a filter is applied
  Value otherwise;
  const Filter* filter = nullptr;
  std::string_view filter_name;
  Arguments arguments;
};

inline bool next_mapped(Run& run, Generator& base, Value& out) {
  auto& self = static_cast<MapGenerator&>(base);
  Value item;
  if (!self.source.next(run, item)) return false;
  if (!self.attribute.is_missing()) {
    out = Path(self.attribute).follow(run, item, self.otherwise);
  } else {
    check(self.filter != nullptr, "map: there is no filter named '", self.filter_name, "'");
    read_subject(run, item);
    out = self.filter->call(run, item, self.arguments);
  }
  return true;
}

inline Value filter_map(Run& run, const Value& value, const Arguments& arguments) {
  MapGenerator map;
  map.next = next_mapped;
  map.arguments = arguments;
  if (!is_true(value)) return make_generator(run, {});
  map.source = Iterator(value);
  if (arguments.positional.empty()) {
    const auto [attribute, otherwise] = bind<2>("map", arguments, {"attribute", "default"}, 1);
    map.attribute = attribute;
    map.otherwise = otherwise;
  } else {
    map.filter_name = string_of(arguments.positional[0], "the name of the filter that map applies");
    map.filter = find_filter(map.filter_name);
    map.arguments.positional = arguments.positional.subspan(1);
  }
  return make_object(Kind::generator, run.arena.make(map));
}

struct SelectGenerator : Generator {
  Iterator source;
  Value attribute;
  bool wanted = true;
  const Test* test = nullptr;  // null: truth
  std::string_view test_name;
  Arguments arguments;
};

inline bool next_selected(Run& run, Generator& base, Value& out) {
  auto& self = static_cast<SelectGenerator&>(base);
  check(self.test != nullptr || self.test_name.empty(), "select: there is no test named '", self.test_name, "'");
  while (self.source.next(run, out)) {
    const Value subject = self.attribute.is_missing() ? out : Path(self.attribute).follow(run, out);
    read_subject(run, subject);
    if ((self.test == nullptr ? is_true(subject) : self.test->holds(run, subject, self.arguments)) == self.wanted)
      return true;
  }
  return false;
}

template <bool wanted, bool by_attribute>
Value filter_select(Run& run, const Value& value, const Arguments& arguments) {
  SelectGenerator select;
  select.next = next_selected;
  select.wanted = wanted;
  if (!is_true(value)) return make_generator(run, {});
  select.source = Iterator(value);
  auto positional = arguments.positional;
  if (by_attribute) {
    check(!positional.empty(), "selectattr and rejectattr need the name of an attribute");
    select.attribute = positional[0];
    positional = positional.subspan(1);
  }
  if (!positional.empty()) {
    select.test_name = string_of(positional[0], "the name of a test");
    select.test = find_test(select.test_name);
    positional = positional.subspan(1);
  }
  select.arguments = {positional, arguments.named};
  return make_object(Kind::generator, run.arena.make(select));
}

inline constexpr Filter filters[] = {
    {"abs", filter_abs},
    {"attr", filter_attr},
    {"batch", filter_batch},
    {"capitalize", filter_case<capitalized>},
    {"center", filter_center},
    {"count", filter_length},
    {"d", filter_default},
    {"default", filter_default},
    {"dictsort", filter_dictsort},
    {"e", filter_escape},
    {"escape", filter_escape},
    {"filesizeformat", filter_filesizeformat},
    {"first", filter_first},
    {"float", filter_float},
    {"forceescape", filter_force_escape},
    {"format", filter_format},
    {"groupby", filter_groupby},
    {"indent", filter_indent},
    {"int", filter_int},
    {"items", filter_items},
    {"join", filter_join},
    {"last", filter_last},
    {"length", filter_length},
    {"list", filter_list},
    {"lower", filter_case<lower_text>},
    {"map", filter_map},
    {"max", filter_extreme<true>},
    {"min", filter_extreme<false>},
    {"reject", filter_select<false, false>},
    {"rejectattr", filter_select<false, true>},
    {"replace", filter_replace},
    {"reverse", filter_reverse},
    {"round", filter_round},
    {"safe", filter_safe},
    {"select", filter_select<true, false>},
    {"selectattr", filter_select<true, true>},
    {"slice", filter_slice},
    {"sort", filter_sort},
    {"string", filter_string},
    {"sum", filter_sum},
    {"title", filter_case<title_words>},
    {"tojson", filter_tojson},
    {"trim", filter_trim},
    {"truncate", filter_truncate},
    {"unique", filter_unique},
    {"upper", filter_case<upper_text>},
    {"urlencode", filter_urlencode},
    {"wordcount", filter_wordcount},
};

/// The filter called `name`, or null.
inline const Filter* find_filter(std::string_view name) {
  for (const Filter& filter : filters)
    if (filter.name == name) return &filter;
  return nullptr;
}

/// "name" is filter
inline constexpr Test filter_test{"filter", [](Run& run, const Value& value, const Arguments& arguments) {
                                    check_no_arguments("the test", arguments);
                                    return find_filter(text_of(run, value)) != nullptr;
                                  }};

}  // namespace kto::jinja
