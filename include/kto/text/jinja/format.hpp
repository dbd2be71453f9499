// SPDX-License-Identifier: Apache-2.0
// Python's str.format: "{} of {name:>5}".format(values).
#pragma once

#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>

#include "kto/text/jinja/arguments.hpp"
#include "kto/text/jinja/format_spec.hpp"

namespace kto::jinja {

/// The lookups inside a field of a format: value.name and value[key].
struct Lookup {
  Value (*attribute)(Run&, const Value&, std::string_view name);
  Value (*item)(Run&, const Value&, const Value& key);
};

/// template.format(...) with fields {}, {0}, {name}, {0.attribute[item]!r:spec}; escapes values if the template is
/// marked safe.
class Formatter {
 public:
  Formatter(Run& run, const Arguments& arguments, bool marked, const Lookup& look_up)
      : run_(run), arguments_(arguments), marked_(marked), look_up_(look_up) {}

  std::string format(std::string_view text, int level = 2) {
    check(level > 0, "fields of a format are nested too deeply");
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const char c = text[i];
      if ((c == '{' || c == '}') && i + 1 < text.size() && text[i + 1] == c) {
        out.push_back(text[i++]);
      } else if (c == '{') {
        std::size_t end = i + 1;
        for (int open = 1; end < text.size(); ++end) {
          open += text[end] == '{' ? 1 : text[end] == '}' ? -1 : 0;
          if (open == 0) break;
        }
        check(end < text.size(), "a field of a format has no closing '}'");
        out += field(text.substr(i + 1, end - i - 1), level);
        i = end;
      } else {
        check(c != '}', "a format has a single '}'");
        out.push_back(c);
      }
      run_.check_length(out.size());
    }
    return out;
  }

 private:
  std::string field(std::string_view text, int level) {
    std::size_t name_end = 0;
    for (bool in_brackets = false; name_end < text.size(); ++name_end) {
      const char c = text[name_end];
      in_brackets = c == '[' || (in_brackets && c != ']');
      if (!in_brackets && (c == '!' || c == ':')) break;
    }
    Value value = lookup(text.substr(0, name_end));
    std::string_view rest = text.substr(name_end);
    if (rest.starts_with('!')) {
      const char conversion = rest.size() > 1 ? rest[1] : ' ';
      check(conversion == 'r' || conversion == 's' || conversion == 'a', "a format has the unknown conversion '!",
            conversion, "'");
      check(rest.size() == 2 || rest[2] == ':', "a conversion of a format is followed by neither ':' nor '}'");
      value = conversion == 's'   ? make_text(text_of(run_, value))
              : conversion == 'r' ? keep_text(run_, repr_of(run_, value))
                                  : keep_text(run_, ascii_repr_of(run_, value));
      rest.remove_prefix(2);
    }
    if (rest.starts_with(':')) rest.remove_prefix(1);
    const std::string spec = format(rest, level - 1 > 0 || rest.find('{') == rest.npos ? std::max(level - 1, 1) : 0);
    if (!marked_) return format_value(run_, value, spec);
    check(!value.is_markup() || spec.empty(), "a text that is marked safe takes no format");
    return value.is_markup() ? std::string(value.text()) : escaped(format_value(run_, value, spec));
  }

  Value lookup(std::string_view name) {
    const std::size_t first_end = std::min(name.find_first_of(".["), name.size());
    Value value = first(name.substr(0, first_end));
    name.remove_prefix(first_end);
    while (!name.empty()) {
      const bool item = name[0] == '[';
      const std::size_t end = item ? name.find(']') : std::min(name.find_first_of(".[", 1), name.size());
      check(end != name.npos && end > 1 && (item || name[0] == '.'), "a field of a format is not valid");
      const std::string_view part = name.substr(1, end - 1);
      std::int64_t number = 0;
      const auto parsed = std::from_chars(part.data(), part.data() + part.size(), number);
      const bool numeric = parsed.ptr == part.data() + part.size() && part[0] != '-';
      value = item ? look_up_.item(run_, value, numeric ? make_int(number) : make_text(part))
                   : look_up_.attribute(run_, value, part);
      name.remove_prefix(item ? end + 1 : end);
    }
    return value;
  }

  Value first(std::string_view name) {
    std::size_t position = 0;
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), position);
    if (name.empty() || parsed.ptr == name.data() + name.size()) {
      if (name.empty()) position = next_++;
      check(position < arguments_.positional.size(), "a format refers to argument ", position, "; ",
            arguments_.positional.size(), " were given");
      return arguments_.positional[position];
    }
    for (const Keyword& keyword : arguments_.named)
      if (keyword.name == name) return keyword.value;
    fail("a format refers to '", name, "', which was not given");
  }

  Run& run_;
  const Arguments& arguments_;
  bool marked_;
  Lookup look_up_;
  std::size_t next_ = 0;
};

}  // namespace kto::jinja
