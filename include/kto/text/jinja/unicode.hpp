// SPDX-License-Identifier: Apache-2.0
// Character classes, case and white space, as in Python's str.
#pragma once

#include <utf8proc.h>

#include <cstddef>
#include <string>
#include <string_view>

#include "kto/text/jinja/utf8.hpp"

namespace kto::jinja {

inline bool is_space(char32_t c) {  // str.isspace
  if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13) || (c >= 28 && c <= 31);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
         c == 0x202F || c == 0x205F || c == 0x3000;
}
inline bool is_line_break(char32_t c) {  // where str.splitlines splits
  return (c >= 10 && c <= 13) || (c >= 28 && c <= 30) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

struct PointRange {
  char32_t first;
  char32_t last;
};
// Unicode 14: digits that are not decimals, and characters with case that are not letters of that case.
inline constexpr PointRange digit_ranges[] = {
    {0xB2, 0xB3},     {0xB9, 0xB9},       {0x1369, 0x1371},   {0x19DA, 0x19DA},   {0x2070, 0x2070},
    {0x2074, 0x2079}, {0x2080, 0x2089},   {0x2460, 0x2468},   {0x2474, 0x247C},   {0x2488, 0x2490},
    {0x24EA, 0x24EA}, {0x24F5, 0x24FD},   {0x24FF, 0x24FF},   {0x2776, 0x277E},   {0x2780, 0x2788},
    {0x278A, 0x2792}, {0x10A40, 0x10A43}, {0x10E60, 0x10E68}, {0x11052, 0x1105A}, {0x1F100, 0x1F10A}};
inline constexpr PointRange lower_ranges[] = {
    {0xAA, 0xAA},     {0xBA, 0xBA},     {0x2B0, 0x2B8},     {0x2C0, 0x2C1},     {0x2E0, 0x2E4},     {0x345, 0x345},
    {0x37A, 0x37A},   {0x1D2C, 0x1D6A}, {0x1D78, 0x1D78},   {0x1D9B, 0x1DBF},   {0x2071, 0x2071},   {0x207F, 0x207F},
    {0x2090, 0x209C}, {0x2170, 0x217F}, {0x24D0, 0x24E9},   {0x2C7C, 0x2C7D},   {0xA69C, 0xA69D},   {0xA770, 0xA770},
    {0xA7F8, 0xA7F9}, {0xAB5C, 0xAB5F}, {0x10780, 0x10780}, {0x10783, 0x10785}, {0x10787, 0x107B0}, {0x107B2, 0x107BA}};
inline constexpr PointRange upper_ranges[] = {
    {0x2160, 0x216F}, {0x24B6, 0x24CF}, {0x1F130, 0x1F149}, {0x1F150, 0x1F169}, {0x1F170, 0x1F189}};

template <std::size_t Count>
constexpr bool is_in(const PointRange (&ranges)[Count], char32_t c) {
  for (const PointRange& range : ranges)
    if (c >= range.first && c <= range.last) return true;
  return false;
}

inline utf8proc_category_t category(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }
inline bool is_letter(char32_t c) {
  const auto k = category(c);
  return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}
inline bool is_decimal(char32_t c) { return category(c) == UTF8PROC_CATEGORY_ND; }
inline bool is_digit(char32_t c) { return is_decimal(c) || is_in(digit_ranges, c); }
inline bool is_numeric(char32_t c) {
  const auto k = category(c);
  return k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO;
}
inline bool is_alnum(char32_t c) { return is_letter(c) || is_numeric(c); }
inline bool is_word(char32_t c) { return c == '_' || is_alnum(c); }  // \w of a regular expression
/// Whether the character is allowed in the name of a variable.
inline bool is_identifier(char32_t c, bool first) {
  if (c < 0x80) return c == '_' || (c | 0x20) - 'a' < 26u || (!first && c - '0' < 10u);
  const auto k = category(c);
  if (is_letter(c) || k == UTF8PROC_CATEGORY_NL) return true;
  return !first && ((k >= UTF8PROC_CATEGORY_MN && k <= UTF8PROC_CATEGORY_MC) || k == UTF8PROC_CATEGORY_ND ||
                    k == UTF8PROC_CATEGORY_PC);
}
inline bool is_printable(char32_t c) {  // str.isprintable: repr() writes the others as escapes
  if (c < 0x80) return c >= 32 && c < 127;
  const auto k = category(c);
  return k != UTF8PROC_CATEGORY_CN && k < UTF8PROC_CATEGORY_ZS;
}

inline char32_t simple_upper(char32_t c) { return static_cast<char32_t>(utf8proc_toupper(static_cast<int>(c))); }
inline char32_t simple_lower(char32_t c) { return static_cast<char32_t>(utf8proc_tolower(static_cast<int>(c))); }
inline char32_t simple_title(char32_t c) { return static_cast<char32_t>(utf8proc_totitle(static_cast<int>(c))); }

inline bool is_lower(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LL || is_in(lower_ranges, c); }
inline bool is_upper(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LU || is_in(upper_ranges, c); }
inline bool is_cased(char32_t c) { return is_lower(c) || is_upper(c) || category(c) == UTF8PROC_CATEGORY_LT; }

/// Full case folding of one character: 1 to 3 code points.
inline std::u32string folded(char32_t c) {
  utf8proc_int32_t points[8];
  int boundary = 0;
  const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), points, 8, UTF8PROC_CASEFOLD, &boundary);
  std::u32string text;
  for (utf8proc_ssize_t i = 0; i < count && i < 8; ++i) text.push_back(static_cast<char32_t>(points[i]));
  return text;
}

/// Full upper case. If one letter becomes several (sharp s, ligatures), they come from its case folding.
inline void append_upper(std::string& out, char32_t c) {
  if (c < 0x80) return out.push_back(static_cast<char>(c - 'a' < 26u ? c - 32 : c));
  const auto k = category(c);
  if (k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT) {
    if (const std::u32string fold = folded(c); fold.size() > 1) {
      for (const char32_t part : fold) encode(out, simple_upper(part));
      return;
    }
  }
  encode(out, simple_upper(c));
}

inline void append_title(std::string& out, char32_t c) {
  if (const char32_t title = simple_title(c); c != 0xDF && (title != c || category(c) != UTF8PROC_CATEGORY_LL))
    return encode(out, title);  // utf8proc has a single letter for the capital of the sharp s, U+DF
  const std::u32string fold = folded(c);
  if (fold.size() < 2) return encode(out, c);
  const bool greek = fold.back() == 0x3B9;  // an iota that stays below its letter
  encode(out, simple_upper(fold[0]));
  for (std::size_t i = 1; i < fold.size(); ++i)
    encode(out, greek && i + 1 == fold.size() ? 0x345 : c == 0x149 ? simple_upper(fold[i]) : fold[i]);
}

inline void append_lower(std::string& out, char32_t c) {
  if (c < 0x80) return out.push_back(static_cast<char>(c - 'A' < 26u ? c + 32 : c));
  if (c == 0x130) {
    out += "i\xCC\x87";
  } else {
    encode(out, simple_lower(c));
  }
}

inline std::string upper_text(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for_each_point(text, [&](char32_t c) { append_upper(out, c); });
  return out;
}

/// Whether the capital sigma before byte `next` ends its word and so becomes the final form.
inline bool is_final_sigma(std::string_view text, std::size_t begin, std::size_t next) {
  const auto skipped = [](char32_t c) {  // characters that the rule ignores
    const auto k = category(c);
    return c == '\'' || c == '.' || c == ':' || c == 0xB7 || c == 0x2019 || k == UTF8PROC_CATEGORY_MN ||
           k == UTF8PROC_CATEGORY_ME || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_LM ||
           k == UTF8PROC_CATEGORY_SK;
  };
  bool cased_before = false;
  while (begin > 0) {
    begin = char_before(text, begin);
    std::size_t at = begin;
    const char32_t c = decode(text, at);
    if (skipped(c)) continue;
    cased_before = is_cased(c);
    break;
  }
  if (!cased_before) return false;
  while (next < text.size()) {
    const char32_t c = decode(text, next);
    if (!skipped(c)) return !is_cased(c);
  }
  return true;
}

inline void append_lower_at(std::string& out, std::string_view text, std::size_t begin, std::size_t end, char32_t c) {
  if (c == 0x3A3 && is_final_sigma(text, begin, end)) return encode(out, 0x3C2);
  append_lower(out, c);
}

inline std::string lower_text(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const char32_t c = decode(text, at);
    append_lower_at(out, text, begin, at, c);
  }
  return out;
}

}  // namespace kto::jinja
