// SPDX-License-Identifier: Apache-2.0
// Filters that work on sequences, and the table of all filters. Those that Python writes as generators run only as far
// as they are read, and once.
#pragma once

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/text/detail/jinja_tests.hpp"
#include "kto/text/detail/jinja_text_filters.hpp"

namespace kto::detail::jinja {

inline const Filter* find_filter(std::string_view name);

/// Follows "a.b.0" from an item; numbers are indices.
class Path {
 public:
  explicit Path(const Value& attribute) {
    if (attribute.is_missing() || attribute.is(Kind::none)) return;
    if (!attribute.is(Kind::string)) {
      parts_.push_back(attribute);
      return;
    }
    for (const std::string_view part : split_at(attribute.text(), ".", -1, false)) {
      const bool number = !part.empty() && part.size() < 18 && part.find_first_not_of("0123456789") == part.npos;
      std::int64_t index = 0;
      if (number) std::from_chars(part.data(), part.data() + part.size(), index);
      parts_.push_back(number ? make_int(index) : make_text(part));
    }
  }

  Value follow(Run& run, Value item, const Value& otherwise = {}) const {
    for (const Value& part : parts_) {
      item = get_item(run, item, part);
      if (item.is(Kind::undefined) && !otherwise.is_missing() && !otherwise.is(Kind::none)) item = otherwise;
    }
    return item;
  }

 private:
  std::vector<Value> parts_;
};

inline Value ignore_case(Run& run, const Value& value, bool case_sensitive) {
  return value.is(Kind::string) && !case_sensitive ? keep_text(run, lower_text(value.text())) : value;
}

// --- map, select, reject

struct MapGenerator : Generator {
  Iterator source;
  Value attribute;  // what is looked up, or missing where a filter is applied
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

// --- Order

struct Keyed {
  Value key;
  Value item;
};

inline void sort_keyed(Run& run, std::vector<Keyed>& items_in, bool descending) {
  std::stable_sort(items_in.begin(), items_in.end(), [&](const Keyed& a, const Keyed& b) {
    run.step();
    return descending ? is_less(run, b.key, a.key) : is_less(run, a.key, b.key);
  });
}

inline Value items_of(Run& run, const std::vector<Keyed>& keyed) {
  const auto out = run.arena.array<Value>(keyed.size());
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = keyed[i].item;
  return make_list(out);
}

inline Value filter_sort(Run& run, const Value& value, const Arguments& arguments) {
  const auto [descending, case_sensitive, attribute] =
      bind<3>("sort", arguments, {"reverse", "case_sensitive", "attribute"});
  std::vector<Path> paths;
  if (attribute.is(Kind::string)) {
    for (const std::string_view part : split_at(attribute.text(), ",", -1, false)) paths.emplace_back(make_text(part));
  } else {
    paths.emplace_back(attribute);
  }
  std::vector<Keyed> keyed;
  for (const Value& item : elements_of(run, value)) {
    const auto key = run.arena.array<Value>(paths.size());
    for (std::size_t i = 0; i < key.size(); ++i)
      key[i] = ignore_case(run, paths[i].follow(run, item), is_true(case_sensitive));
    keyed.push_back({make_list(key), item});
  }
  sort_keyed(run, keyed, is_true(descending));
  return items_of(run, keyed);
}

inline Value filter_dictsort(Run& run, const Value& value, const Arguments& arguments) {
  const auto [case_sensitive, by, descending] = bind<3>("dictsort", arguments, {"case_sensitive", "by", "reverse"});
  const std::string_view what = by.is_missing() ? "key" : string_of(by, "what dictsort sorts by");
  check(what == "key" || what == "value", "dictsort: by is '", what, "'; expected key or value");
  check_defined(value);
  check(value.is(Kind::dict), "dictsort: a value of type ", type_name(value), " is not a dict");
  std::vector<Keyed> keyed;
  for (const Pair& pair : value.dict())
    keyed.push_back({ignore_case(run, what == "key" ? pair.key : pair.value, is_true(case_sensitive)),
                     tuple_of(run, pair.key, pair.value)});
  sort_keyed(run, keyed, is_true(descending));
  return items_of(run, keyed);
}

template <bool largest>
Value filter_extreme(Run& run, const Value& value, const Arguments& arguments) {
  const auto [case_sensitive, attribute] = bind<2>(largest ? "max" : "min", arguments, {"case_sensitive", "attribute"});
  const Path path(attribute);
  Keyed best;
  Value item;
  for (Iterator source = iterate(value); source.next(run, item);) {
    const Value key = ignore_case(run, path.follow(run, item), is_true(case_sensitive));
    const bool better = best.key.is_missing() || (largest ? is_less(run, best.key, key) : is_less(run, key, best.key));
    if (better) best = {key, item};
  }
  return best.key.is_missing() ? undefined_hint(run, "an empty sequence has no smallest and no largest item")
                               : best.item;
}

inline Value filter_unique(Run& run, const Value& value, const Arguments& arguments) {
  const auto [case_sensitive, attribute] = bind<2>("unique", arguments, {"case_sensitive", "attribute"});
  const Path path(attribute);
  std::vector<Value> seen;
  std::vector<Value> out;
  Value item;
  for (Iterator source = iterate(value); source.next(run, item);) {
    const Value key = ignore_case(run, path.follow(run, item), is_true(case_sensitive));
    check_hashable(key);
    run.step(static_cast<std::int64_t>(seen.size()));
    if (std::any_of(seen.begin(), seen.end(), [&](const Value& other) { return is_equal(run, key, other); })) continue;
    seen.push_back(key);
    out.push_back(item);
  }
  return make_generator(run, run.arena.keep(out));
}

inline Value filter_groupby(Run& run, const Value& value, const Arguments& arguments) {
  const auto [attribute, otherwise, case_sensitive] =
      bind<3>("groupby", arguments, {"attribute", "default", "case_sensitive"}, 1);
  const Path path(attribute);
  std::vector<Keyed> keyed;
  for (const Value& item : elements_of(run, value))
    keyed.push_back({ignore_case(run, path.follow(run, item, otherwise), is_true(case_sensitive)), item});
  sort_keyed(run, keyed, false);
  std::vector<Value> groups;
  for (std::size_t begin = 0, end = 0; begin < keyed.size(); begin = end) {
    std::vector<Value> members;
    for (; end < keyed.size() && is_equal(run, keyed[end].key, keyed[begin].key); ++end)
      members.push_back(keyed[end].item);
    if (members.empty()) members.push_back(keyed[end++].item);  // a key that does not equal itself
    const Value name = path.follow(run, keyed[begin].item, otherwise);
    groups.push_back(tuple_of(run, name, make_list(run.arena.keep(members)), group));
  }
  return make_list(run.arena.keep(groups));
}

// --- The rest

inline Value filter_length(Run&, const Value& value, const Arguments& arguments) {
  check_no_arguments("length", arguments);
  return make_size(length_of(value));
}

inline Value filter_list(Run& run, const Value& value, const Arguments& arguments) {
  check_no_arguments("list", arguments);
  return make_list(elements_of(run, value));
}

inline Value filter_first(Run& run, const Value& value, const Arguments& arguments) {
  check_no_arguments("first", arguments);
  Value item;
  Iterator source = iterate(value);
  return source.next(run, item) ? item : undefined_hint(run, "an empty sequence has no first item");
}

inline Value filter_last(Run& run, const Value& value, const Arguments& arguments) {
  check_no_arguments("last", arguments);
  check(is_iterable(value) && !value.is(Kind::generator), "last: a value of type ", type_name(value),
        " cannot be read from its end");
  if (length_of(value) == 0) return undefined_hint(run, "an empty sequence has no last item");
  if (value.is(Kind::string)) {
    const std::size_t begin = char_before(value.text(), value.size);
    return make_text(value.text().substr(begin));
  }
  return elements_of(run, value).back();
}

inline Value filter_reverse(Run& run, const Value& value, const Arguments& arguments) {
  check_no_arguments("reverse", arguments);
  if (value.is(Kind::string)) return slice(run, value, {}, {}, make_int(-1));
  const Value list = reversed(run, elements_of(run, value));
  return value.is(Kind::generator) ? list : make_generator(run, list.list());
}

inline Value filter_items(Run& run, const Value& value, const Arguments& arguments) {
  check_no_arguments("items", arguments);
  if (value.is(Kind::undefined)) return make_generator(run, {});
  check(value.is(Kind::dict), "items: a value of type ", type_name(value), " is not a dict");
  return make_generator(run, elements_of(run, view_method<items>(run, value, {})));
}

inline Value filter_join(Run& run, const Value& value, const Arguments& arguments) {
  const auto [separator, attribute] = bind<2>("join", arguments, {"d", "attribute"});
  const Path path(attribute);
  const std::string_view between = separator.is_missing() ? "" : text_of(run, separator);
  std::string out;
  bool first = true;
  Value item;
  for (Iterator source = iterate(value); source.next(run, item); first = false) {
    if (!first) out += between;
    append_text(run, out, path.follow(run, item));
  }
  return keep_text(run, out);
}

inline Value filter_sum(Run& run, const Value& value, const Arguments& arguments) {
  const auto [attribute, start] = bind<2>("sum", arguments, {"attribute", "start"});
  const Path path(attribute);
  Value total = start.is_missing() ? make_int(0) : start;
  check(!total.is(Kind::string), "sum adds numbers or lists; texts are put together with join");
  Value item;
  for (Iterator source = iterate(value); source.next(run, item);) total = add(run, total, path.follow(run, item));
  return total;
}

inline Value filter_batch(Run& run, const Value& value, const Arguments& arguments) {
  const auto [count, fill] = bind<2>("batch", arguments, {"linecount", "fill_with"}, 1);
  const std::int64_t size = index_of(count, "the size of a batch");
  std::vector<Value> batches;
  std::vector<Value> batch;
  const auto flush = [&] { batches.push_back(make_list(run.arena.keep(std::exchange(batch, {})))); };
  for (const Value& item : elements_of(run, value)) {
    if (static_cast<std::int64_t>(batch.size()) == size) flush();
    batch.push_back(item);
  }
  const bool filled = !fill.is_missing() && !fill.is(Kind::none);
  while (filled && !batch.empty() && static_cast<std::int64_t>(batch.size()) < size) {
    run.step();
    batch.push_back(fill);
  }
  if (!batch.empty()) flush();
  return make_generator(run, run.arena.keep(batches));
}

inline Value filter_slice(Run& run, const Value& value, const Arguments& arguments) {
  const auto [count, fill] = bind<2>("slice", arguments, {"slices", "fill_with"}, 1);
  const std::int64_t num_slices = index_of(count, "the number of slices");
  const auto elements = elements_of(run, value);
  check(num_slices != 0, "division by zero");
  std::vector<Value> slices;
  std::size_t at = 0;
  for (std::int64_t i = 0; i < num_slices; ++i) {
    run.step();
    const auto slots = static_cast<std::size_t>(num_slices);
    const bool longer = static_cast<std::size_t>(i) < elements.size() % slots;
    const auto part = elements.subspan(at, elements.size() / slots + (longer ? 1 : 0));
    at += part.size();
    std::vector<Value> slice_items(part.begin(), part.end());
    if (!fill.is_missing() && !fill.is(Kind::none) && !longer) slice_items.push_back(fill);
    slices.push_back(make_list(run.arena.keep(slice_items)));
  }
  return make_generator(run, run.arena.keep(slices));
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

}  // namespace kto::detail::jinja
