// SPDX-License-Identifier: Apache-2.0
// The normalizer of tokenizer.json: rewrites the text between special tokens before it is split.
#pragma once

#include <utf8proc.h>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "kto/io/json.hpp"
#include "kto/text/regex/code_points.hpp"
#include "kto/text/regex/regex.hpp"
#include "kto/text/tokenizer/byte_alphabet.hpp"
#include "kto/text/tokenizer/character_tables.hpp"
#include "kto/text/tokenizer/precompiled.hpp"
#include "kto/text/tokenizer/step_spec.hpp"

namespace kto::tok {

struct NormalText {
  std::string text;
  std::size_t head = 0;  ///< bytes at its start that come from the first character of the whole input
};

/// How long a text of `size` bytes may become in the steps of a tokenizer. Real tokenizers grow it at most 70-fold.
inline std::size_t longest_rewritten(std::size_t size) { return 1000 + 100 * size; }

/// Throws Error if a step makes a text longer than that.
inline void check_rewritten(std::size_t size, std::size_t most) {
  check(size <= most, "the tokenizer's steps grow a text past ", most, " bytes: a text that they insert is too long");
}

/// Each step runs over all text, so their number is limited.
inline constexpr std::size_t max_tokenizer_steps = 100;

/// Code points that current Unicode normalization changes or moves, but Hugging Face's tokenizers do not: their tables
/// are those of Unicode 9.
inline bool is_inert_in_normalization(char32_t c) {
  static constexpr std::pair<char32_t, char32_t> ranges[] = {
      {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},
      {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},
      {0x32FF, 0x32FF},   {0xA7F2, 0xA7F4},   {0xA82C, 0xA82C},   {0xAB69, 0xAB69},   {0x10781, 0x107BA},
      {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85},
      {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11930},
      {0x11938, 0x11938}, {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34},
      {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97},
      {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1}, {0x1E030, 0x1E06D}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136},
      {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}, {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9},
  };
  const auto* past = std::ranges::upper_bound(ranges, c, {}, [](const auto& range) { return range.first; });
  return past != std::begin(ranges) && c <= (past - 1)->second;
}

/// One of NFC, NFD, NFKC, NFKD.
struct UnicodeForm {
  bool composed, compatible;

  void operator()(std::string& text) const {
    if (std::ranges::all_of(text, [&](char c) { return is_unchanged(c); })) return;
    std::string out;
    std::size_t begin = 0, at = 0;
    while (at < text.size()) {
      const std::size_t next = at + utf8_length(text[at]);
      if (is_inert_in_normalization(code_point_at(text, at))) {
        append(out, std::string_view(text).substr(begin, at - begin));
        out.append(text, at, next - at);
        begin = next;
      }
      at = next;
    }
    append(out, std::string_view(text).substr(begin));
    text = std::move(out);
  }

 private:
  /// Lead bytes of characters that never change: ASCII; with NFC, all below U+0300.
  bool is_unchanged(char byte) const {
    const auto value = static_cast<unsigned char>(byte);
    return value < 0x80 || (composed && !compatible && value < 0xCC);
  }

  void append(std::string& out, std::string_view part) const {
    const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | (compatible ? UTF8PROC_COMPAT : 0) |
                                                        (composed ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE));
    std::vector<utf8proc_int32_t> points;
    points.reserve(part.size());
    for (std::size_t at = 0; at < part.size(); at += utf8_length(part[at])) {
      utf8proc_int32_t parts[32];  // the longest decomposition has 18
      const auto c = static_cast<utf8proc_int32_t>(code_point_at(part, at));
      const auto length = utf8proc_decompose_char(c, parts, std::size(parts), options, nullptr);
      check(length >= 0, "Unicode normalization failed: ", utf8proc_errmsg(length));
      points.insert(points.end(), parts, parts + length);
    }
    order_marks(points);
    const auto size = static_cast<utf8proc_ssize_t>(points.size());
    const auto length = utf8proc_normalize_utf32(points.data(), size, options);
    check(length >= 0, "Unicode normalization failed: ", utf8proc_errmsg(length));
    for (utf8proc_ssize_t i = 0; i < length; ++i)
      append_utf8(out, static_cast<char32_t>(points[static_cast<std::size_t>(i)]));
  }

  /// Canonical order: sorts runs of marks by combining class. (utf8proc's own code takes quadratic time.)
  static void order_marks(std::vector<utf8proc_int32_t>& points) {
    const auto mark_class = [](utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; };
    std::vector<std::tuple<int, std::size_t, utf8proc_int32_t>> run;  // class, place, mark
    for (std::size_t begin = 0; begin < points.size(); ++begin) {
      run.clear();
      for (std::size_t at = begin; at < points.size() && mark_class(points[at]) != 0; ++at)
        run.emplace_back(mark_class(points[at]), at, points[at]);
      std::ranges::sort(run);
      for (const auto& [mark, place, c] : run) points[begin++] = c;
    }
  }
};

/// Lower case of one character in Unicode 17, which utf8proc may not know yet.
inline char32_t lower_case(char32_t c) {
  struct Late {
    char32_t first, last, lower;
  };
  static constexpr Late late[] = {{0x1C89, 0x1C89, 0x1C8A},   {0xA7CB, 0xA7CB, 0x264},  {0xA7CC, 0xA7CC, 0xA7CD},
                                  {0xA7CE, 0xA7CE, 0xA7CF},   {0xA7D2, 0xA7D2, 0xA7D3}, {0xA7D4, 0xA7D4, 0xA7D5},
                                  {0xA7DA, 0xA7DA, 0xA7DB},   {0xA7DC, 0xA7DC, 0x19B},  {0x10D50, 0x10D65, 0x10D70},
                                  {0x16EA0, 0x16EB8, 0x16EBB}};
  for (const Late& range : late)
    if (c >= range.first && c <= range.last) return range.lower + (c - range.first);
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}

/// Rewrites each character: append(out, character) writes what takes its place, if anything.
template <class Append>
void for_each_character(std::string& text, Append append) {
  std::string out;
  for (std::size_t at = 0; at < text.size(); at += utf8_length(text[at])) append(out, code_point_at(text, at));
  text = std::move(out);
}

inline void lowercase(std::string& text) {
  for_each_character(text, [](std::string& out, char32_t c) {
    if (c == 0x130)
      out += "i\xCC\x87";  // the only character whose lower case has two
    else
      append_utf8(out, c < 0x80 ? (c >= 'A' && c <= 'Z' ? c + 32 : c) : lower_case(c));
  });
}

/// BERT's clean-up.
struct BertNormalizer {
  bool cleans = true, spaces_han = true, strips_accents = true, lowers = true;

  void operator()(std::string& text) const {
    if (cleans)
      for_each_character(text, [](std::string& out, char32_t c) {
        const bool is_space = c == '\t' || c == '\n' || c == '\r' || (is_white_space(c) && !is_in(control_ranges, c));
        if (is_space || !is_in(control_ranges, c)) append_utf8(out, is_space ? U' ' : c);
      });
    if (spaces_han)
      for_each_character(text, [](std::string& out, char32_t c) {
        if (is_han(c)) out += ' ';
        append_utf8(out, c);
        if (is_han(c)) out += ' ';
      });
    if (strips_accents) {
      UnicodeForm{false, false}(text);
      for_each_character(text, [](std::string& out, char32_t c) {
        if (!is_in(accent_ranges, c)) append_utf8(out, c);
      });
    }
    if (lowers) lowercase(text);
  }

 private:
  static bool is_han(char32_t c) {
    static constexpr CodePointRange ranges[] = {{0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xF900, 0xFAFF},
                                                {0x20000, 0x2A6DF}, {0x2A700, 0x2B81F}, {0x2B920, 0x2CEAF},
                                                {0x2F800, 0x2FA1F}};
    return is_in(ranges, c);
  }
};

/// The clean-up of SentencePiece's rule set "nmt".
inline void normalize_nmt(std::string& text) {
  static constexpr CodePointRange removed[] = {{0x01, 0x08}, {0x0B, 0x0B}, {0x0E, 0x1F},
                                               {0x7F, 0x7F}, {0x8F, 0x8F}, {0x9F, 0x9F}};
  static constexpr CodePointRange spaces[] = {{0x09, 0x0A},     {0x0C, 0x0D},     {0x1680, 0x1680}, {0x200B, 0x200F},
                                              {0x2028, 0x2029}, {0x2581, 0x2581}, {0xFEFF, 0xFEFF}, {0xFFFD, 0xFFFD}};
  for_each_character(text, [](std::string& out, char32_t c) {
    if (!is_in(removed, c)) append_utf8(out, is_in(spaces, c) ? U' ' : c);
  });
}

/// Replaces each match of `pattern` by `content`, which is aligned with the last character of the match. Throws Error
/// if the result would exceed `most` bytes.
inline void replace_matches(const Regex& pattern, NormalText& normal, std::string_view content, std::size_t most) {
  const std::string_view text = normal.text;
  std::string out;
  out.reserve(text.size() + text.size() / 4);
  std::size_t last = 0, head = 0;
  const auto keep = [&](std::size_t end) {
    if (last < normal.head) head = out.size() + std::min(end, normal.head) - last;
    out.append(text, last, end - last);
  };
  pattern.for_each_match(text, [&](std::size_t begin, std::size_t end) {
    keep(begin);
    out += content;
    if (end <= normal.head) head = out.size();
    check_rewritten(out.size(), most);
    last = end;
  });
  keep(text.size());
  normal = {std::move(out), head};
}

class Normalizer {
 public:
  Normalizer() = default;

  /// `spec` is the value of "normalizer". Throws Error naming `where` for an unsupported type.
  Normalizer(const Json& spec, std::string_view where) { add(spec, where); }

  bool empty() const { return steps_.empty(); }

  void operator()(NormalText& text) const {
    const std::size_t most = longest_rewritten(text.text.size());
    for (const auto& step : steps_) {
      step(text, most);
      check_rewritten(text.text.size(), most);
    }
  }
  std::string operator()(std::string_view text) const {
    NormalText normal{std::string(text)};
    (*this)(normal);
    return std::move(normal.text);
  }

 private:
  void add(const Json& spec, std::string_view where) {
    if (spec.is_null()) return;
    const std::string type = json_value<std::string>(spec, "type", "", where);
    if (type == "Sequence") {
      for (const Json& step : json_member(spec, "normalizers", where)) add(step, where);
      check(steps_.size() <= max_tokenizer_steps, where, ": more than ", max_tokenizer_steps, " normalizers");
    } else if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
      rewrite(UnicodeForm{type.back() == 'C', type[2] == 'K'});
    } else if (type == "Lowercase") {
      rewrite(lowercase);
    } else if (type == "Strip") {
      steps_.push_back([left = json_value(spec, "strip_left", true, where),
                        right = json_value(spec, "strip_right", true, where)](NormalText& normal, std::size_t) {
        if (right) normal.text.resize(normal.text.size() - trailing_space(normal.text));
        const std::size_t spaces = left ? leading_space(normal.text) : 0;
        normal.head -= std::min(normal.head, spaces);
        normal.text.erase(0, spaces);
      });
    } else if (type == "StripAccents") {
      rewrite([](std::string& text) {
        for_each_character(text, [](std::string& out, char32_t c) {
          if (!is_in(mark_ranges, c)) append_utf8(out, c);
        });
      });
    } else if (type == "BertNormalizer") {
      const bool lowers = json_value(spec, "lowercase", true, where);
      rewrite(BertNormalizer{json_value(spec, "clean_text", true, where),
                             json_value(spec, "handle_chinese_chars", true, where),
                             json_value(spec, "strip_accents", lowers, where), lowers});
    } else if (type == "Nmt") {
      rewrite(normalize_nmt);
    } else if (type == "Precompiled") {
      steps_.push_back([table = std::make_shared<Precompiled>(json_text(spec, "precompiled_charsmap", where),
                                                              std::string(where) + ": \"precompiled_charsmap\"")](
                           NormalText& normal, std::size_t) { (*table)(normal.text, normal.head); });
    } else if (type == "Prepend") {
      steps_.push_back([prefix = json_text(spec, "prepend", where)](NormalText& normal, std::size_t) {
        if (normal.text.empty()) return;
        normal.text.insert(0, prefix);
        if (normal.head > 0) normal.head += prefix.size();
      });
    } else if (type == "Replace") {
      steps_.push_back(
          [pattern = std::make_shared<Regex>(json_pattern(spec, where)), content = json_text(spec, "content", where)](
              NormalText& normal, std::size_t most) { replace_matches(*pattern, normal, content, most); });
    } else if (type == "ByteLevel") {
      rewrite([](std::string& text) { text = to_byte_alphabet(text); });
    } else {
      fail(where, ": the normalizer \"", type, "\" is not supported; supported are Sequence, NFC, NFD, NFKC, NFKD, ",
           "Lowercase, Strip, StripAccents, BertNormalizer, Nmt, Precompiled, Prepend, Replace, ByteLevel");
    }
  }

  /// Adds a step that goes from character to character: what becomes of the head does not depend on the rest.
  template <class Rewrite>
  void rewrite(Rewrite change) {
    steps_.push_back([change](NormalText& normal, std::size_t) {
      std::string head = normal.text.substr(0, normal.head);
      change(head);
      change(normal.text);
      normal.head = head.size();
    });
  }

  std::vector<std::function<void(NormalText&, std::size_t most)>> steps_;
};

}  // namespace kto::tok
