// SPDX-License-Identifier: Apache-2.0
// Indices, keys and slices of values.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kto/text/jinja/operators.hpp"

namespace kto::jinja {

inline Value range_element(const Value& range, std::size_t index) {
  return make_int(range.as<Range>().start + static_cast<std::int64_t>(index) * range.as<Range>().step);
}

inline void check_hashable(Run& run, const Value& key) {
  run.step();
  check(!key.is(Kind::list) && !key.is(Kind::dict), "a value of type ", type_name(key), " cannot be a key");
  if (!key.is(Kind::tuple)) return;
  const Nested nested(run);
  for (const Value& element : key.list()) check_hashable(run, element);
}

/// The value under `key`, or null. Dicts of templates are small; the keys of a large one count as steps.
inline const Value* find_key(Run& run, const Value& dict, const Value& key) {
  const auto pairs = dict.dict();
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    if (i % 8 == 7) run.step();
    if (is_equal(run, pairs[i].key, key)) return &pairs[i].value;
  }
  return nullptr;
}

/// The values [start : stop : step] of a sequence of `size`: first index, step and count.
struct Slice {
  std::int64_t start;
  std::int64_t step;
  std::size_t count;
};

inline Slice resolve_slice(std::size_t size, const Value& start, const Value& stop, const Value& step) {
  const auto given = [](const Value& bound) { return !bound.is_missing() && !bound.is(Kind::none); };
  const std::int64_t stride = given(step) ? index_of(step, "the step of a slice") : 1;
  check(stride != 0, "the step of a slice is 0");
  const auto length = static_cast<std::int64_t>(size);
  const std::int64_t low = stride > 0 ? 0 : -1;
  const std::int64_t high = stride > 0 ? length : length - 1;
  const auto bound = [&](const Value& value, std::int64_t otherwise) {
    if (!given(value)) return otherwise;
    std::int64_t index = index_of(value, "a bound of a slice");
    if (index < 0) index = index < -length ? low : index + length;
    return std::clamp(index, low, high);
  };
  const std::int64_t from = bound(start, stride > 0 ? low : high);
  const std::int64_t to = bound(stop, stride > 0 ? high : low);
  const std::uint64_t distance = static_cast<std::uint64_t>(stride > 0 ? to - from : from - to);
  const std::uint64_t stride_size =
      stride > 0 ? static_cast<std::uint64_t>(stride) : 0 - static_cast<std::uint64_t>(stride);
  const bool empty = stride > 0 ? to <= from : to >= from;
  return {from, stride, empty ? 0 : static_cast<std::size_t>((distance - 1) / stride_size + 1)};
}

inline Value slice(Run& run, const Value& value, const Value& start, const Value& stop, const Value& step) {
  check_defined(value);
  if (value.is(Kind::string)) {
    const std::string_view text = value.text();
    run.read(text.size());
    const bool ascii = is_ascii(text);
    const Slice part = resolve_slice(ascii ? text.size() : num_chars(text), start, stop, step);
    if (part.count == 0) return make_text({}, value.flag);
    const auto from = static_cast<std::size_t>(part.start);
    if (part.step == 1) {
      if (ascii) return make_text(text.substr(from, part.count), value.flag);
      const std::string_view rest = text.substr(char_offset(text, from));
      return make_text(rest.substr(0, char_offset(rest, part.count)), value.flag);
    }
    std::vector<std::size_t> offsets;
    for (std::size_t at = 0; at < text.size(); decode(text, at)) offsets.push_back(at);
    std::string out;
    for (std::size_t i = 0; i < part.count; ++i) {
      std::size_t at = offsets[static_cast<std::size_t>(part.start + static_cast<std::int64_t>(i) * part.step)];
      encode(out, decode(text, at));
    }
    return keep_text(run, out, value.flag);
  }
  check(value.is_sequence() || value.is(Kind::range), "a value of type ", type_name(value), " cannot be sliced");
  const Slice part = resolve_slice(value.size, start, stop, step);
  if (value.is(Kind::range)) {
    const Range& range = value.as<Range>();
    const std::int64_t first = range.start + part.start * range.step;
    const std::int64_t stride = part.count > 1 ? range.step * part.step : 1;
    const std::int64_t last = first + (part.count > 1 ? static_cast<std::int64_t>(part.count - 1) * stride : 0);
    const Range taken{first, part.count == 0 ? first : last + (stride > 0 ? 1 : -1), stride};
    return make_object(Kind::range, run.arena.make(taken), part.count);
  }
  if (part.count == 0) return make_sequence(value.kind, {});
  if (part.step == 1)
    return make_sequence(value.kind, value.list().subspan(static_cast<std::size_t>(part.start), part.count));
  const auto out = run.arena.array<Value>(part.count);
  for (std::size_t i = 0; i < part.count; ++i)
    out[i] = value.elements[static_cast<std::size_t>(part.start + static_cast<std::int64_t>(i) * part.step)];
  return make_sequence(value.kind, out);
}

}  // namespace kto::jinja
