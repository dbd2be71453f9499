// SPDX-License-Identifier: Apache-2.0
// JSON into values, without copying its text, and values into JSON as json.dumps writes them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kto/io/json.hpp"
#include "kto/text/jinja/operators.hpp"

namespace kto::jinja {

/// The values refer to the text in `json`, which must outlive the rendering.
inline Value from_json(Run& run, const Json& json) {
  const Nested nested(run);
  switch (json.type()) {
    case Json::value_t::null:
      return make_none();
    case Json::value_t::boolean:
      return make_bool(json.get<bool>());
    case Json::value_t::number_integer:
      return make_int(json.get<std::int64_t>());
    case Json::value_t::number_unsigned: {
      const auto number = json.get<std::uint64_t>();
      if (number <= INT64_MAX) return make_int(static_cast<std::int64_t>(number));
      Value value = keep_text(run, std::to_string(number));
      value.kind = Kind::big;
      return value;
    }
    case Json::value_t::number_float:
      return make_real(json.get<double>());
    case Json::value_t::string:
      return make_text(json.get_ref<const std::string&>());
    case Json::value_t::array: {
      const auto elements = run.arena.array<Value>(json.size());
      std::size_t i = 0;
      for (const Json& element : json) elements[i++] = from_json(run, element);
      return make_list(elements);
    }
    case Json::value_t::object: {
      const auto pairs = run.arena.array<Pair>(json.size());
      std::size_t i = 0;
      for (const auto& [key, element] : json.get_ref<const Json::object_t&>())
        pairs[i++] = {make_text(key), from_json(run, element)};
      return make_dict(pairs);
    }
    case Json::value_t::binary:
    case Json::value_t::discarded:
      break;
  }
  fail("a variable of the template holds binary JSON; expected null, booleans, numbers, strings, arrays or objects");
}

/// A conversation as transformers passes it to a template: without null keys, and with the reasoning of a message under
/// each of the names that templates use.
inline Value from_messages(Run& run, const Json& messages) {
  check(messages.is_array() && !messages.empty(), "\"messages\" is ", messages.is_array() ? "empty" : "not an array",
        "; expected an array of at least one message");
  const auto list = run.arena.array<Value>(messages.size());
  for (std::size_t i = 0; i < list.size(); ++i) {
    const Json& message = messages[i];
    check(message.is_object(), "message ", i + 1, " is ", message.type_name(),
          "; expected an object with \"role\" and \"content\"");
    std::vector<Pair> pairs;
    pairs.reserve(message.size() + 2);
    for (const auto& [key, element] : message.get_ref<const Json::object_t&>())
      if (!element.is_null()) pairs.push_back({make_text(key), from_json(run, element)});
    const auto find = [&](std::string_view key) {
      return std::ranges::find_if(pairs, [&](const Pair& pair) { return pair.key.text() == key; });
    };
    for (const std::string_view name : {"reasoning_content", "thinking", "reasoning"}) {
      if (const auto found = find(name); found != pairs.end()) {
        const Value reasoning = found->value;
        Pair thinking{make_text("thinking"), reasoning};
        if (const auto old = find("thinking"); old != pairs.end()) {
          thinking.value = old->value;
          pairs.erase(old);
        }
        pairs.insert(pairs.begin(), thinking);
        if (const auto old = find("reasoning_content"); old != pairs.end()) {
          old->value = reasoning;
        } else {
          pairs.push_back({make_text("reasoning_content"), reasoning});
        }
        break;
      }
    }
    list[i] = make_dict(run.arena.keep(pairs));
  }
  return make_list(list);
}

struct JsonStyle {
  bool ascii = false;
  bool sort_keys = false;
  bool pretty = false;  // one element a line
  std::string indent{};
  std::string comma = ", ";
  std::string colon = ": ";
};

inline void append_json_string(std::string& out, std::string_view text, bool ascii) {
  out += '"';
  const auto unit = [&](char32_t c) { append_hex(out += "\\u", c, 4); };
  const auto one = [&](char32_t c) {
    switch (c) {
      case '"':
        out += "\\\"";
        return;
      case '\\':
        out += "\\\\";
        return;
      case '\n':
        out += "\\n";
        return;
      case '\r':
        out += "\\r";
        return;
      case '\t':
        out += "\\t";
        return;
      case '\b':
        out += "\\b";
        return;
      case '\f':
        out += "\\f";
        return;
      default:
        break;
    }
    if (c < 32 || (ascii && c >= 127 && c < 0x10000)) return unit(c);
    if (!ascii || c < 0x10000) return encode(out, c);
    unit(0xD800 + ((c - 0x10000) >> 10));
    unit(0xDC00 + ((c - 0x10000) & 0x3FF));
  };
  for_each_point(text, one);
  out += '"';
}

inline void append_json(Run& run, std::string& out, const Value& value, const JsonStyle& style, int level = 0) {
  const Nested nested(run);
  const auto line = [&](int depth) {
    if (!style.pretty) return;
    out += '\n';
    for (int i = 0; i < depth; ++i) out += style.indent;
  };
  const auto real = [](double number) {
    return std::isnan(number)   ? "NaN"
           : std::isinf(number) ? (number < 0 ? "-Infinity" : "Infinity")
                                : real_text(number);
  };
  const auto key_text = [&](const Value& key) -> std::string {
    switch (key.kind) {
      case Kind::string:
        return std::string(key.text());
      case Kind::integer:
      case Kind::big:
        return repr_of(run, key);
      case Kind::real:
        return real(key.real);
      case Kind::boolean:
        return key.boolean ? "true" : "false";
      case Kind::none:
        return "null";
      default:
        fail("tojson: a key is ", type_name(key), "; expected str, int, float, bool or None");
    }
  };
  switch (value.kind) {
    case Kind::none:
      out += "null";
      break;
    case Kind::boolean:
      out += value.boolean ? "true" : "false";
      break;
    case Kind::integer:
    case Kind::big:
      append_repr(run, out, value);
      break;
    case Kind::real:
      out += real(value.real);
      break;
    case Kind::string:
      append_json_string(out, value.text(), style.ascii);
      break;
    case Kind::list:
    case Kind::tuple:
      out += '[';
      for (std::size_t i = 0; i < value.size; ++i) {
        if (i > 0) out += style.comma;
        line(level + 1);
        append_json(run, out, value.elements[i], style, level + 1);
      }
      if (value.size > 0) line(level);
      out += ']';
      break;
    case Kind::dict: {
      std::vector<Pair> pairs(value.dict().begin(), value.dict().end());
      if (style.sort_keys) {
        sort_stably(pairs, [&](const Pair& a, const Pair& b) { return is_less(run, a.key, b.key); });
      }
      out += '{';
      for (std::size_t i = 0; i < pairs.size(); ++i) {
        if (i > 0) out += style.comma;
        line(level + 1);
        append_json_string(out, key_text(pairs[i].key), style.ascii);
        out += style.colon;
        append_json(run, out, pairs[i].value, style, level + 1);
      }
      if (!pairs.empty()) line(level);
      out += '}';
      break;
    }
    case Kind::undefined:
    default:
      fail("tojson: a value of type ", type_name(value), " cannot be written as JSON");
  }
  run.check_length(out.size());
}

}  // namespace kto::jinja
