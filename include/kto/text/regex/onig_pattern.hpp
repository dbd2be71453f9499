// SPDX-License-Identifier: Apache-2.0
// Translates Oniguruma patterns, which tokenizer.json uses, to PCRE2. The two differ in the meaning of \s, \w, \h,
// {n,m}+, {n}?, {,n}, (?m) and (?i)...|, in class algebra ([a&&[^b]]), and in the version of Unicode.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include "kto/text/regex/onig_reader.hpp"

namespace kto::tok {

class OnigPattern : OnigReader {
 public:
  /// The PCRE2 pattern equivalent to Oniguruma's `pattern`. Throws Error naming `where` for a construct that has no
  /// equivalent.
  static std::string translate(std::string_view pattern, std::string_view where) {
    OnigPattern parser(pattern, where);
    parser.group();
    if (parser.more()) parser.refuse("an unmatched )");
    return std::move(parser.out_);
  }

 private:
  using OnigReader::OnigReader;

  /// A sequence of alternatives, up to `)` or the end.
  void group() {
    const bool outer_caseless = caseless_;
    int open_options = 0;
    while (more() && in_[at_] != ')') {
      if (take("|")) {
        out_ += '|';
        continue;
      }
      const std::size_t atom = out_.size();
      if (const auto options = isolated_options(); !options.empty()) {
        out_ += "(?" + options + ":";  // applies to the end of the group, across its alternatives
        ++open_options;
        continue;
      }
      piece();
      quantifiers(atom);
    }
    out_.append(static_cast<std::size_t>(open_options), ')');
    caseless_ = outer_caseless;
  }

  /// "i-s" for "(?i-m)", or nothing.
  std::string isolated_options() {
    const std::size_t start = at_;
    if (take("(?")) {
      const bool outer_caseless = caseless_;
      std::string options = option_letters();
      if (!options.empty() && take(")")) return options;
      caseless_ = outer_caseless;
    }
    at_ = start;
    return {};
  }

  std::string option_letters() {
    std::string options;
    bool on = true;
    for (; more(); ++at_) {
      const char c = in_[at_];
      if (c == 'x') refuse("extended syntax (?x)");
      if (c == '-') on = false;
      if (c == 'i') caseless_ = on;
      if (c != 'i' && c != 'm' && c != '-') break;
      options += c == 'm' ? 's' : c;  // Ruby's multi-line option ("." matches line feeds) is Perl's s
    }
    return options;
  }

  void piece() {
    const char c = in_[at_];
    if (c == '(') return parentheses();
    if (c == '[') {
      const CharSet set = bracket();
      out_ += set.atom();
      return;
    }
    if (c == '\\') return escape();
    if (std::string quantifier; next_quantifier(quantifier)) refuse("a quantifier without a target");
    if (c == '.' || c == '^' || c == '$') {
      ++at_;
      out_ += c;
      return;
    }
    literal(take_character());
  }

  void literal(char32_t c) {
    if (caseless_ && (folds_to_many(c) || (previous_end_ == out_.size() && folds_to_one(previous_, c))))
      refuse("case-insensitive letters that match a different number of characters");
    out_ += quoted(c);
    previous_ = c;
    previous_end_ = out_.size();
  }

  /// Whether full case folding maps one character to the pair, such as the sharp s to "ss".
  static bool folds_to_one(char32_t a, char32_t b) {
    const auto lower = [](char32_t c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; };
    a = lower(a);
    b = lower(b);
    return (a == 's' && (b == 's' || b == 't')) || (a == 'f' && (b == 'f' || b == 'i' || b == 'l'));
  }

  static bool folds_to_many(char32_t c) {
    return c == 0xDF || c == 0x130 || c == 0x149 || c == 0x1F0 || c == 0x390 || c == 0x3B0 || c == 0x587 ||
           (c >= 0x1E96 && c <= 0x1E9E) || (c >= 0x1F50 && c <= 0x1FFC) || (c >= 0xFB00 && c <= 0xFB17);
  }

  void parentheses() {
    for (const std::string_view opening : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"})
      if (take(opening)) return rest_of_group(std::string(opening));
    if (take("(?#")) {
      while (more() && in_[at_] != ')') ++at_;
      if (!take(")")) refuse("an unterminated comment");
      return;
    }
    const bool outer_caseless = caseless_;
    if (take("(?<")) {  // a name only matters for back-references
      while (more() && in_[at_] != '>') ++at_;
      if (!take(">")) refuse("a group name without >");
      return rest_of_group("(?:");
    }
    if (take("(?")) {
      const std::string options = option_letters();
      if (options.empty() || !take(":")) refuse("a special group (?...)");
      rest_of_group("(?" + options + ":");
      caseless_ = outer_caseless;
      return;
    }
    if (starts_with("(*")) refuse("a callout (*...)");
    ++at_;
    rest_of_group("(?:");  // captures only matter for back-references
  }

  void rest_of_group(const std::string& opening) {
    if (++depth_ > 200) refuse("more than 200 nested groups");
    out_ += opening;
    group();
    if (!take(")")) refuse("a group without )");
    out_ += ')';
    --depth_;
  }

  void escape() {
    ++at_;
    if (!more()) refuse("a backslash at its end");
    const char c = in_[at_];
    switch (c) {
      case 'A':
      case 'z':
      case 'Z':
      case 'G':
      case 'R':
      case 'N':
        ++at_;
        out_ += '\\';
        out_ += c;
        return;
      case 'O':
        ++at_;
        out_ += "(?s:.)";
        return;
      case 'b':
      case 'B': {
        ++at_;
        const std::string word = word_set(true).atom();
        out_ += c == 'b' ? "(?:(?<=" + word + ")(?!" + word + ")|(?<!" + word + ")(?=" + word + "))"
                         : "(?:(?<=" + word + ")(?=" + word + ")|(?<!" + word + ")(?!" + word + "))";
        return;
      }
      default:
        break;
    }
    if (CharSet set; class_escape(set, true)) {
      out_ += caseless_ ? "(?-i:" + set.atom() + ")" : set.atom();  // (?i) does not apply to \p{Lu} and the like
      return;
    }
    literal(escaped_character(false));
  }

  /// All quantifiers after the atom that starts at `atom` in the output.
  void quantifiers(std::size_t atom) {
    bool quantified = false;
    for (std::string quantifier; next_quantifier(quantifier); quantified = true) {
      const bool is_interval = quantifier.starts_with('{');
      if (quantified) {
        out_.insert(atom, "(?:");
        out_ += ')';
      }
      out_ += quantifier;
      const bool fixed = is_interval && quantifier.find(',') == std::string::npos;
      if (!fixed && take("?"))
        out_ += '?';
      else if (!is_interval && take("+"))
        out_ += '+';
    }
  }

  bool next_quantifier(std::string& quantifier) {
    for (const char c : {'*', '+', '?'})
      if (take(std::string_view(&c, 1))) {
        quantifier.assign(1, c);
        return true;
      }
    const std::size_t start = at_;
    if (!take("{")) return false;
    const std::string low = digits();
    const bool comma = take(",");
    const std::string high = comma ? digits() : low;
    if (!take("}") || (low.empty() && high.empty())) {
      at_ = start;  // an ordinary brace
      return false;
    }
    if (!high.empty() && !low.empty() && std::stol(high) < std::stol(low)) refuse("a descending interval");
    quantifier = "{" + (low.empty() ? "0" : low) + (comma ? "," + high : "") + "}";
    return true;
  }

  std::string digits() {
    std::string text;
    while (more() && in_[at_] >= '0' && in_[at_] <= '9' && text.size() < 6) text += in_[at_++];
    return text;
  }

  std::string out_;
  char32_t previous_ = 0;  ///< the literal that ends at previous_end_ of the output
  std::size_t previous_end_ = std::string::npos;
};

}  // namespace kto::tok
