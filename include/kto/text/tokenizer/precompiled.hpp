// SPDX-License-Identifier: Apache-2.0
// The normalizer "Precompiled": SentencePiece's table of replacements (precompiled_charsmap), applied as Hugging Face's
// tokenizers does: to each grapheme of less than six bytes as a whole, else to each character; the shortest match wins.
// Layout of the table, little endian: bytes of the trie, the trie (Darts-clone's double array of 32-bit units), texts
// that end with a zero byte.
#pragma once

#include <utf8proc.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kto/core/error.hpp"
#include "kto/io/base64.hpp"
#include "kto/text/regex/code_points.hpp"
#include "kto/text/regex/unicode_since_14.hpp"
#include "kto/text/tokenizer/character_tables.hpp"

namespace kto::tok {

class Precompiled {
 public:
  /// `charsmap` is the table in base64. Throws Error naming `where` if it is malformed.
  Precompiled(std::string_view charsmap, std::string_view where) {
    const std::string bytes = decode_base64(charsmap, where);
    const auto unit = [&](std::size_t at) {
      std::uint32_t value = 0;
      for (std::size_t i = 4; i-- > 0;) value = value << 8U | static_cast<unsigned char>(bytes[at + i]);
      return value;
    };
    check(bytes.size() >= 4 && unit(0) <= bytes.size() - 4, where, ": a table of ", bytes.size(),
          " bytes, which is shorter than it says; is the file complete?");
    const std::size_t end = 4 + unit(0) / 4 * 4;
    for (std::size_t at = 4; at < end; at += 4) trie_.push_back(unit(at));
    texts_ = bytes.substr(end);
    check(find_invalid_utf8(texts_) == std::string_view::npos, where, ": its replacements are not UTF-8");
  }

  /// Rewrites `text`. `head` is the number of bytes at its start that come from the first character of the input.
  void operator()(std::string& text, std::size_t& head) const {
    std::string out;
    HeadCounter counter(text, head);
    const auto replace = [&](std::string_view part, std::string_view by) {
      counter.replace(part, by);
      out += by;
    };
    for (std::size_t begin = 0; begin < text.size();) {
      const std::size_t end = grapheme_end(text, begin);
      const std::string_view grapheme = std::string_view(text).substr(begin, end - begin);
      const auto whole = grapheme.size() < 6 ? replacement(grapheme) : std::nullopt;
      if (whole) replace(grapheme, *whole);
      for (std::size_t at = begin, next = 0; !whole && at < end; at = next) {
        next = at + utf8_length(text[at]);
        const std::string_view character = std::string_view(text).substr(at, next - at);
        replace(character, replacement(character).value_or(character));
      }
      begin = end;
    }
    head = counter.finish();
    text = std::move(out);
  }

 private:
  /// Counts the bytes of the result that tokenizers aligns with the first character of the input. It aligns new
  /// characters with old ones in their order; a character removed at the very beginning is not taken into account.
  class HeadCounter {
   public:
    HeadCounter(std::string_view text, std::size_t head) : text_(text), head_(head) {}

    void replace(std::string_view part, std::string_view by) {
      if (is_past_) return;
      const std::ptrdiff_t change = num_characters(by) - num_characters(part);
      if (by.empty()) change_ += change;
      for (std::ptrdiff_t left = num_characters(by); !by.empty(); --left) {
        settle();
        size_ = utf8_length(by[0]);
        change_ = left <= change ? 1 : left == 1 && change < 0 ? change : 0;
        by.remove_prefix(size_);
      }
    }

    std::size_t finish() {
      settle();
      return counted_;
    }

   private:
    static std::ptrdiff_t num_characters(std::string_view text) {
      return std::ranges::count_if(text, [](char c) { return !detail::is_continuation(c); });
    }

    /// Aligns the last new character: all that takes its place in the old text is known.
    void settle() {
      if (size_ == 0 || is_past_) {
        change_ = 0;
        return;
      }
      const std::size_t with = change_ > 0 && old_ > 0 ? old_ - 1 : old_;
      is_past_ = with >= head_ && !(change_ > 0 && old_ == 0);
      if (!is_past_) counted_ += size_;
      for (std::ptrdiff_t i = change_; i <= 0 && old_ < text_.size(); ++i) old_ += utf8_length(text_[old_]);
      size_ = 0;
      change_ = 0;
    }

    std::string_view text_;
    std::size_t head_, old_ = 0, counted_ = 0;
    std::size_t size_ = 0;       ///< of the last new character; 0: none
    std::ptrdiff_t change_ = 0;  ///< 1: it is inserted; below 0: it also replaces so many further characters
    bool is_past_ = false;
  };

  static std::size_t grapheme_end(std::string_view text, std::size_t at) {
    utf8proc_int32_t state = 0;
    for (;;) {
      const std::size_t next = at + utf8_length(text[at]);
      if (next >= text.size()) return text.size();
      const char32_t left = code_point_at(text, at), right = code_point_at(text, next);
      if (utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(left), static_cast<utf8proc_int32_t>(right),
                                           &state) &&
          (is_in(control_ranges, left) || left == U'\t' || left == U'\n' || left == U'\r' || !is_new_mark(right)))
        return next;
      at = next;
    }
  }

  /// A mark that utf8proc may not know yet.
  static bool is_new_mark(char32_t c) {
    return c >= 0x897 && std::ranges::any_of(unicode_since_14, [&](const NewCodePoints& range) {
             return c >= range.first && c <= range.last && range.category.starts_with('M');
           });
  }

  /// What replaces `key`: the text of its shortest prefix in the trie.
  std::optional<std::string_view> replacement(std::string_view key) const {
    const auto offset = [](std::uint32_t unit) { return unit >> 10U << ((unit & 1U << 9U) >> 6U); };
    if (trie_.empty()) return std::nullopt;
    std::size_t node = offset(trie_[0]);
    for (const char c : key) {
      const auto byte = static_cast<unsigned char>(c);
      node ^= byte;
      if (byte == 0 || node >= trie_.size() || (trie_[node] & (1U << 31U | 0xFFU)) != byte) return std::nullopt;
      const std::uint32_t unit = trie_[node];
      node ^= offset(unit);
      if ((unit >> 8U & 1U) == 0) continue;
      if (node >= trie_.size()) return std::nullopt;
      const std::size_t begin = trie_[node] & ~(1U << 31U);
      if (begin > texts_.size() || (begin < texts_.size() && detail::is_continuation(texts_[begin])))
        return std::nullopt;
      return std::string_view(texts_).substr(begin, texts_.find('\0', begin) - begin);
    }
    return std::nullopt;
  }

  std::vector<std::uint32_t> trie_;
  std::string texts_;
};

}  // namespace kto::tok
