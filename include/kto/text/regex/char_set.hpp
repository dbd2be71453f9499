// SPDX-License-Identifier: Apache-2.0
// Character sets in PCRE2's syntax, and Oniguruma's named sets (Unicode 16, as in Hugging Face's tokenizers).
#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/core/error.hpp"
#include "kto/text/regex/code_points.hpp"
#include "kto/text/regex/unicode_since_14.hpp"

namespace kto::tok {

/// A character in a PCRE2 pattern, inside or outside brackets.
inline std::string quoted(char32_t c) {
  std::string out;
  if (c < 0x80 && !(c >= '0' && c <= '9') && !(c >= 'A' && c <= 'Z') && !(c >= 'a' && c <= 'z')) {
    std::ostringstream hex;
    hex << "\\x{" << std::hex << static_cast<unsigned>(c) << "}";
    return std::move(hex).str();
  }
  append_utf8(out, c);
  return out;
}

/// The union of a bracketed class and other patterns that match one character each.
struct CharSet {
  std::string body;                 ///< the inside of [...]
  std::vector<std::string> others;  ///< what a bracketed class cannot express

  void add(char32_t c) { body += quoted(c); }
  void add(char32_t first, char32_t last) { body += quoted(first) + "-" + quoted(last); }
  void add(const CharSet& set) {
    body += set.body;
    others.insert(others.end(), set.others.begin(), set.others.end());
  }

  /// A pattern that matches one character of the set.
  std::string atom() const {
    if (others.empty()) return body.empty() ? "(?!)" : "[" + body + "]";
    if (body.empty() && others.size() == 1) return others.front();
    std::string out = "(?:";
    if (!body.empty()) out += "[" + body + "]|";
    for (const std::string& other : others) out += other + "|";
    out.back() = ')';
    return out;
  }

  CharSet complement() const {
    if (others.empty() && !body.empty()) return {{}, {"[^" + body + "]"}};
    return {{}, {"(?:(?!" + atom() + ")(?s:.))"}};
  }

  static CharSet both(const CharSet& a, const CharSet& b) { return {{}, {"(?:(?=" + a.atom() + ")" + b.atom() + ")"}}; }
};

/// "Uppercase_Letter" -> "uppercaseletter"
inline std::string loose_name(std::string_view name) {
  std::string out;
  for (const char c : name)
    if (c != ' ' && c != '_' && c != '-') out += c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  return out;
}

/// General categories by their long names.
inline constexpr std::array<std::pair<std::string_view, std::string_view>, 38> category_names = {{
    {"letter", "L"},
    {"casedletter", "LC"},
    {"uppercaseletter", "Lu"},
    {"lowercaseletter", "Ll"},
    {"titlecaseletter", "Lt"},
    {"modifierletter", "Lm"},
    {"otherletter", "Lo"},
    {"mark", "M"},
    {"combiningmark", "M"},
    {"nonspacingmark", "Mn"},
    {"spacingmark", "Mc"},
    {"enclosingmark", "Me"},
    {"number", "N"},
    {"decimalnumber", "Nd"},
    {"letternumber", "Nl"},
    {"othernumber", "No"},
    {"punctuation", "P"},
    {"punct", "P"},
    {"connectorpunctuation", "Pc"},
    {"dashpunctuation", "Pd"},
    {"openpunctuation", "Ps"},
    {"closepunctuation", "Pe"},
    {"initialpunctuation", "Pi"},
    {"finalpunctuation", "Pf"},
    {"otherpunctuation", "Po"},
    {"symbol", "S"},
    {"mathsymbol", "Sm"},
    {"currencysymbol", "Sc"},
    {"modifiersymbol", "Sk"},
    {"othersymbol", "So"},
    {"separator", "Z"},
    {"spaceseparator", "Zs"},
    {"lineseparator", "Zl"},
    {"paragraphseparator", "Zp"},
    {"control", "Cc"},
    {"cntrl", "Cc"},
    {"format", "Cf"},
    {"privateuse", "Co"},
}};

/// "Lu" for "lu", "LU" or "Uppercase_Letter"; empty if `loose` is not a category that has members in all versions.
inline std::string_view category_of(std::string_view loose) {
  for (const auto& [name, category] : category_names)
    if (loose == name || loose == loose_name(category)) return category;
  return {};
}

inline CharSet category_set(std::string_view category) {
  const auto is_member = [&](const NewCodePoints& row) {
    if (category == "LC") return row.category == "Lu" || row.category == "Ll" || row.category == "Lt";
    return row.category.starts_with(category);
  };
  return {"\\p{" + std::string(category == "LC" ? "L&" : category) + "}" + new_code_points(is_member), {}};
}

inline CharSet white_space_set() {
  return {"\\x09-\\x0D\\x20\\x85\\xA0\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}", {}};
}

inline CharSet alphabetic_set() {
  CharSet set = category_set("L");
  set.body += "\\p{Alphabetic}";
  return set;
}

/// Oniguruma's \w. Outside brackets it has six more characters of Latin-1.
inline CharSet word_set(bool outside_brackets) {
  CharSet set = alphabetic_set();
  for (const char* category : {"M", "Nd", "Pc"}) set.add(category_set(category));
  if (outside_brackets) set.body += "\\xB2\\xB3\\xB9\\xBC-\\xBE";
  return set;
}

/// The set of Oniguruma's \p{name}. Throws Error naming `where` if there is none or it is not supported.
inline CharSet property_set(std::string_view name, std::string_view where) {
  const std::string loose = loose_name(name);
  if (const std::string_view category = category_of(loose); !category.empty()) return category_set(category);
  if (loose == "space" || loose == "whitespace") return white_space_set();
  if (loose == "digit") return category_set("Nd");
  if (loose == "word") return word_set(true);
  if (loose == "alpha" || loose == "alphabetic") return alphabetic_set();
  if (loose == "xdigit") return {"0-9A-Fa-f", {}};
  if (loose == "ascii") return {"\\x00-\\x7F", {}};
  if (loose == "any") return {{}, {"(?s:.)"}};
  if (loose == "blank") return {"\\x09\\p{Zs}", {}};
  if (loose == "alnum") {
    CharSet set = alphabetic_set();
    set.add(category_set("Nd"));
    return set;
  }
  if (loose == "c" || loose == "other") {
    CharSet set = property_set("cn", where);
    for (const char* category : {"Cc", "Cf", "Co"}) set.add(category_set(category));
    return set;
  }
  const auto is_new = [](const NewCodePoints&) { return true; };
  if (loose == "cn" || loose == "unassigned") return {{}, {"(?![" + new_code_points(is_new) + "])\\p{Cn}"}};
  if (loose == "assigned") return property_set("cn", where).complement();
  if (loose == "graph" || loose == "print") {
    CharSet others = property_set("cn", where);
    others.add(loose == "graph" ? white_space_set() : CharSet{"\\p{Zl}\\p{Zp}", {}});
    others.add(category_set("Cc"));
    return others.complement();
  }
  if (loose == "upper" || loose == "uppercase" || loose == "lower" || loose == "lowercase") {
    const bool upper = loose[0] == 'u';
    CharSet set = category_set(upper ? "Lu" : "Ll");
    set.body += upper ? "\\p{Uppercase}" : "\\p{Lowercase}\\x{10FC}\\x{A7F2}-\\x{A7F4}\\x{AB69}";
    return set;
  }
  if (loose == "emoji" || loose == "extendedpictographic" || loose == "ideographic" || loose == "emojipresentation")
    return {"\\p{" + loose + "}", {}};
  if (loose.empty() || loose.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789") != std::string::npos ||
      name.starts_with("In_"))
    fail(where, ": the regular expression uses \\p{", name, "}, which is not supported");
  return {"\\p{sc:" + loose + "}" +
              new_code_points([&](const NewCodePoints& row) { return loose == loose_name(row.script); }),
          {}};
}

}  // namespace kto::tok
