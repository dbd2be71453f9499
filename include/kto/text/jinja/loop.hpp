// SPDX-License-Identifier: Apache-2.0
// The variable `loop` of a for loop. It reads one element ahead only if the template uses it, because the loop's
// condition may depend on what the body does.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>

#include "kto/text/jinja/arguments.hpp"
#include "kto/text/jinja/iterate.hpp"

namespace kto::jinja {

struct Loop {
  Iterator source;
  bool sized = false;  // the source knows its length
  int depth0 = 0;
  std::int64_t index0 = -1;
  std::int64_t known_length = -1;
  Value before;
  Value current;
  Value after;                           // the element read ahead, or missing
  Value changed;                         // what loop.changed() was last called with
  const Statement* statement = nullptr;  // of a recursive loop
  Scope* scope = nullptr;

  bool next(Run& run, Value& out) {
    Value element = std::exchange(after, Value{});
    if (element.is_missing() && !source.next(run, element)) return false;
    ++index0;
    before = std::exchange(current, element);
    out = element;
    return true;
  }

  const Value& peek(Run& run) {
    if (after.is_missing()) {
      Value element;
      if (source.next(run, element)) after = element;
    }
    return after;
  }

  std::int64_t length(Run& run) {
    if (known_length >= 0) return known_length;
    if (sized) return known_length = static_cast<std::int64_t>(length_of(source.source()));
    std::vector<Value> rest;
    Value element;
    while (source.next(run, element)) rest.push_back(element);
    source = Iterator(make_list(run.arena.keep(rest)));
    return known_length = static_cast<std::int64_t>(rest.size()) + index0 + 1 + (after.is_missing() ? 0 : 1);
  }
};

inline Value loop_cycle(Run&, const Value& self, const Arguments& arguments) {
  check(!arguments.positional.empty() && arguments.named.empty(), "loop.cycle needs values to cycle through");
  const auto index = static_cast<std::size_t>(self.as<Loop>().index0);
  return arguments.positional[index % arguments.positional.size()];
}

inline Value loop_changed(Run& run, const Value& self, const Arguments& arguments) {
  check(arguments.named.empty(), "loop.changed takes no named arguments");
  Loop& loop = self.as<Loop>();
  const Value seen = tuple_of(arguments.positional);
  if (!loop.changed.is_missing() && is_equal(run, loop.changed, seen)) return make_bool(false);
  loop.changed = seen;
  return make_bool(true);
}

/// loop.name, or missing.
inline Value loop_attribute(Run& run, const Value& self, std::string_view name) {
  Loop& loop = self.as<Loop>();
  if (name == "index") return make_int(loop.index0 + 1);
  if (name == "index0") return make_int(loop.index0);
  if (name == "first") return make_bool(loop.index0 == 0);
  if (name == "last") return make_bool(loop.peek(run).is_missing());
  if (name == "length") return make_int(loop.length(run));
  if (name == "revindex") return make_int(loop.length(run) - loop.index0);
  if (name == "revindex0") return make_int(loop.length(run) - loop.index0 - 1);
  if (name == "depth") return make_int(loop.depth0 + 1);
  if (name == "depth0") return make_int(loop.depth0);
  if (name == "previtem") return loop.index0 == 0 ? undefined_hint(run, "there is no previous item") : loop.before;
  if (name == "nextitem") {
    const Value after = loop.peek(run);
    return after.is_missing() ? undefined_hint(run, "there is no next item") : after;
  }
  if (name == "cycle" || name == "changed") {
    const Native call = name == "cycle" ? loop_cycle : loop_changed;
    return make_object(Kind::method, run.arena.make(Method{name, call, self}));
  }
  return {};
}

}  // namespace kto::jinja
