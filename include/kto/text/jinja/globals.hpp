// SPDX-License-Identifier: Apache-2.0
// The built-in functions of templates: range, dict, namespace, cycler, joiner, and transformers' raise_exception and
// strftime_now.
#pragma once

#include <ctime>
#include <string>
#include <string_view>
#include <vector>

#include "kto/text/jinja/attributes.hpp"

namespace kto::jinja {

inline Value global_range(Run& run, const Value&, const Arguments& arguments) {
  const auto [first, second, third] = bind<3>("range", arguments, {"", "", ""}, 1);
  const std::int64_t start = second.is_missing() ? 0 : index_of(first, "the start of range");
  const std::int64_t stop = index_of(second.is_missing() ? first : second, "the stop of range");
  const std::int64_t step = index_or(third, 1, "the step of range");
  check(step != 0, "range: the step is 0");
  const bool empty = step > 0 ? stop <= start : stop >= start;
  const auto bits = [](std::int64_t number) { return static_cast<std::uint64_t>(number); };
  const std::uint64_t distance = step > 0 ? bits(stop) - bits(start) : bits(start) - bits(stop);
  const std::uint64_t count = empty ? 0 : (distance - 1) / absolute(step) + 1;
  check(count <= 100'000, "range: ", count, " numbers; templates may use at most 100000");
  return make_object(Kind::range, run.arena.make(Range{start, stop, step}), count);
}

/// dict(mapping or pairs, name=value, ...) as pairs.
inline std::vector<Pair> dict_pairs(Run& run, std::string_view function, const Arguments& arguments) {
  check(arguments.positional.size() <= 1, function, "() takes one mapping, ", arguments.positional.size(), " given");
  std::vector<Pair> pairs;
  const auto set = [&](const Value& key, const Value& value) {
    check_hashable(run, key);
    run.step(static_cast<std::int64_t>(pairs.size()));
    for (Pair& pair : pairs)
      if (is_equal(run, pair.key, key)) return void(pair.value = value);
    pairs.push_back({key, value});
  };
  if (!arguments.positional.empty()) {
    const Value& source = arguments.positional[0];
    if (source.is(Kind::dict)) {
      pairs.assign(source.dict().begin(), source.dict().end());
    } else {
      for (const Value& pair : elements_of(run, source)) {
        const auto parts = elements_of(run, pair);
        check(parts.size() == 2, function, "() takes pairs of a key and a value; one has ", parts.size(), " elements");
        set(parts[0], parts[1]);
      }
    }
  }
  for (const Keyword& keyword : arguments.named) set(make_text(keyword.name), keyword.value);
  return pairs;
}

inline Value global_dict(Run& run, const Value&, const Arguments& arguments) {
  return make_dict(run.arena.keep(dict_pairs(run, "dict", arguments)));
}

inline void set_attribute(Run& run, Namespace& space, std::string_view name, const Value& value) {
  check(!name.starts_with('_'), "'", name,
        "' cannot be set on a namespace: names with a leading underscore are private");
  space.set(run, name, value);
}

inline Value global_namespace(Run& run, const Value&, const Arguments& arguments) {
  Namespace* space = run.arena.make(Namespace{});
  for (const Pair& pair : dict_pairs(run, "namespace", arguments))
    set_attribute(run, *space, string_of(pair.key, "the name of an attribute of namespace"), pair.value);
  return make_object(Kind::space, space);
}

inline Value global_cycler(Run& run, const Value&, const Arguments& arguments) {
  check(!arguments.positional.empty() && arguments.named.empty(), "cycler needs values to cycle through");
  return make_object(Kind::cycler, run.arena.make(Cycler{arguments.positional, 0}));
}

inline Value global_joiner(Run& run, const Value&, const Arguments& arguments) {
  const Value separator = bind<1>("joiner", arguments, {"sep"})[0];
  return make_object(Kind::joiner, run.arena.make(Joiner{separator.is_missing() ? make_text(", ") : separator, false}));
}

inline Value global_raise_exception(Run& run, const Value&, const Arguments& arguments) {
  fail("the template refuses the conversation: ",
       text_of(run, bind<1>("raise_exception", arguments, {"message"}, 1)[0]));
}

inline Value global_strftime_now(Run& run, const Value&, const Arguments& arguments) {
  std::string format(string_of(bind<1>("strftime_now", arguments, {"format"}, 1)[0], "the format of strftime_now"));
  constexpr std::size_t most = 1000;
  check(format.size() <= most, "the format of strftime_now has ", format.size(), " bytes; at most ", most,
        " are expected");
  for (std::size_t at = 0; (at = format.find('%', at)) != format.npos && at + 1 < format.size();) {
    const char c = format[at + 1];  // what Python writes for a time without a zone, in whole seconds
    const std::string_view fixed = c == 'f' ? "000000" : "";
    if (c == 'f' || c == 'z' || c == 'Z') format.replace(at, 2, fixed);
    at += c == 'z' || c == 'Z' ? 0 : 2;
  }
  if (format.empty()) return make_text({});
  std::tm local{};
  check(::localtime_r(&run.now, &local) != nullptr, "the local time is not known");
  std::string out(format.size() * 32 + 256, '\0');
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
  out.resize(std::strftime(out.data(), out.size(), format.c_str(), &local));
#pragma GCC diagnostic pop
  return keep_text(run, out);
}

inline constexpr Function globals[] = {
    {"range", global_range},
    {"dict", global_dict},
    {"namespace", global_namespace},
    {"cycler", global_cycler},
    {"joiner", global_joiner},
    {"raise_exception", global_raise_exception},
    {"strftime_now", global_strftime_now},
    {"lipsum", [](Run&, const Value&, const Arguments&) -> Value { fail("the function lipsum is not supported"); }},
};

}  // namespace kto::jinja
