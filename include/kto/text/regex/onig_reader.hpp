// SPDX-License-Identifier: Apache-2.0
// Reads an Oniguruma pattern: characters, escapes and bracketed classes.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "kto/core/error.hpp"
#include "kto/text/regex/char_set.hpp"
#include "kto/text/regex/code_points.hpp"

namespace kto::tok {

class OnigReader {
 protected:
  OnigReader(std::string_view pattern, std::string_view where) : in_(pattern), where_(where) {}

  bool more() const { return at_ < in_.size(); }
  bool starts_with(std::string_view text) const { return in_.substr(at_).starts_with(text); }
  bool take(std::string_view text) {
    if (!starts_with(text)) return false;
    at_ += text.size();
    return true;
  }

  [[noreturn]] void refuse(std::string_view what) const {
    fail(where_, ": the regular expression \"", in_, "\" uses ", what, " (byte ", at_, "), which is not supported");
  }

  /// A set written with a backslash (already consumed), such as \s or \p{L}.
  bool class_escape(CharSet& set, bool outside_brackets) {
    const char c = in_[at_];
    const bool negated = c == 'D' || c == 'S' || c == 'W' || c == 'H' || c == 'P';
    switch (c) {
      case 'd':
      case 'D':
        set = property_set("nd", where_);
        break;
      case 's':
      case 'S':
        set = property_set("space", where_);
        break;
      case 'w':
      case 'W':
        set = word_set(outside_brackets);
        break;
      case 'h':
      case 'H':
        set = property_set("xdigit", where_);
        break;
      case 'p':
      case 'P': {
        if (at_ + 1 >= in_.size() || in_[at_ + 1] != '{') refuse("\\p without {name}");
        const std::size_t end = in_.find('}', at_);
        if (end == std::string_view::npos) refuse("\\p{ without }");
        std::string_view name = in_.substr(at_ + 2, end - at_ - 2);
        const bool caret = name.starts_with('^');
        if (caret) name.remove_prefix(1);
        at_ = end + 1;
        set = property_set(name, where_);
        if (caret != negated) set = set.complement();
        return true;
      }
      default:
        return false;
    }
    ++at_;
    if (negated) set = set.complement();
    return true;
  }

  char32_t take_character() {
    const char32_t c = code_point_at(in_, at_);
    at_ += utf8_length(in_[at_]);
    return c;
  }

  /// The character of an escape; the backslash is already consumed.
  char32_t escaped_character(bool in_brackets) {
    const char c = in_[at_];
    constexpr std::string_view letters = "tnrfvae", values = "\t\n\r\f\v\a\x1B";
    const auto letter = letters.find(c);
    const bool is_backspace = c == 'b' && in_brackets;
    if (letter != std::string_view::npos || is_backspace) {
      ++at_;
      return is_backspace ? U'\b' : static_cast<char32_t>(values[letter]);
    }
    if (c == 'u' || c == 'x') {
      ++at_;
      if (c == 'x' && take("{")) {
        const char32_t value = hexadecimal(8);
        if (!take("}")) refuse("\\x{...} without exactly one code point");
        return value;
      }
      return hexadecimal(c == 'u' ? 4 : 2);
    }
    if (c == '0') {
      char32_t value = 0;
      for (int i = 0; i < 3 && more() && in_[at_] >= '0' && in_[at_] <= '7'; ++i, ++at_)
        value = value * 8 + static_cast<char32_t>(in_[at_] - '0');
      return value;
    }
    if ((c >= '1' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
      refuse("the escape \\" + std::string(1, c));
    return take_character();
  }

  char32_t hexadecimal(int most_digits) {
    char32_t value = 0;
    int digits = 0;
    for (; digits < most_digits && more(); ++digits, ++at_) {
      const char c = in_[at_];
      if (c >= '0' && c <= '9')
        value = value * 16 + static_cast<char32_t>(c - '0');
      else if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'))
        value = value * 16 + static_cast<char32_t>((c | 0x20) - 'a' + 10);
      else
        break;
    }
    if (digits == 0 || value > 0x10FFFF || (value >= 0xD800 && value < 0xE000) || (value > 0x7F && most_digits == 2))
      refuse("an invalid code point");
    return value;
  }

  /// A bracketed class, with nested classes and intersections.
  CharSet bracket() {
    if (++depth_ > 200) refuse("more than 200 nested groups");
    ++at_;
    const bool negated = take("^");
    CharSet intersection, current;
    bool has_intersection = false;
    const auto intersect = [&] {
      intersection = has_intersection ? CharSet::both(intersection, current) : current;
      has_intersection = true;
      current = {};
    };
    if (starts_with("]")) current.add(take_character());
    for (;;) {
      if (!more()) refuse("a class without ]");
      if (take("]")) break;
      if (take("&&")) {
        if (caseless_) refuse("a case-insensitive intersection");
        intersect();
      } else if (starts_with("[:"))
        current.add(posix_bracket());
      else if (starts_with("["))
        current.add(bracket());
      else
        class_item(current);
    }
    intersect();
    --depth_;
    return negated ? intersection.complement() : intersection;
  }

  CharSet posix_bracket() {
    const std::size_t end = in_.find(":]", at_);
    if (end == std::string_view::npos) refuse("[: without :]");
    std::string_view name = in_.substr(at_ + 2, end - at_ - 2);
    const bool negated = name.starts_with('^');
    if (negated) name.remove_prefix(1);
    at_ = end + 2;
    CharSet set = name == "punct" ? property_set("p", where_) : name == "word" ? word_set(false) : CharSet{};
    if (name == "punct") set.add(property_set("s", where_));
    if (name != "punct" && name != "word") set = property_set(name, where_);
    return negated ? set.complement() : set;
  }

  /// One character, one range or one escaped set.
  void class_item(CharSet& set) {
    if (starts_with("\\")) {
      ++at_;
      if (!more()) refuse("a backslash at its end");
      const std::size_t start = at_;
      if (CharSet escaped; class_escape(escaped, false)) {
        const std::string name = loose_name(in_.substr(start, at_ - start));
        if (caseless_ && (name == "p{lu}" || name == "p{ll}" || name == "p{lt}")) refuse("a case-insensitive " + name);
        if (starts_with("-") && !starts_with("-]")) refuse("a range that starts with a set");
        return set.add(escaped);
      }
      --at_;
    }
    const char32_t first = class_character();
    if (!starts_with("-") || starts_with("-]") || starts_with("-&&")) return set.add(first);
    ++at_;
    if (starts_with("[")) refuse("a range that ends with a set");
    const char32_t last = class_character();
    if (last < first) refuse("an empty range");
    set.add(first, last);
  }

  char32_t class_character() {
    if (!take("\\")) return take_character();
    if (!more()) refuse("a backslash at its end");
    if (CharSet set; class_escape(set, false)) refuse("a range that ends with a set");
    return escaped_character(true);
  }

  std::string_view in_, where_;
  std::size_t at_ = 0;
  int depth_ = 0;  ///< of groups and classes
  bool caseless_ = false;
};

}  // namespace kto::tok
