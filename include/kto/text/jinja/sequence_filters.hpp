// SPDX-License-Identifier: Apache-2.0
// Filters on sequences: length, list, first, last, join, sum, batch, slice, ...
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/text/jinja/order_filters.hpp"

namespace kto::jinja {

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
  check(!total.is(Kind::string), "sum adds numbers or lists; use join for strings");
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

}  // namespace kto::jinja
