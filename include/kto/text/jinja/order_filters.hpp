// SPDX-License-Identifier: Apache-2.0
// Filters that compare elements: sort, dictsort, min, max, unique, groupby.
#pragma once

#include <algorithm>
#include <charconv>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/text/jinja/attributes.hpp"

namespace kto::jinja {

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
      run.step();
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

struct Keyed {
  Value key;
  Value item;
};

inline void sort_keyed(Run& run, std::vector<Keyed>& items_in, bool descending) {
  sort_stably(items_in, [&](const Keyed& a, const Keyed& b) {
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
    check_hashable(run, key);
    run.step(static_cast<std::int64_t>(seen.size()));
    if (std::ranges::any_of(seen, [&](const Value& other) { return is_equal(run, key, other); })) continue;
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

}  // namespace kto::jinja
