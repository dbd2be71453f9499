// SPDX-License-Identifier: Apache-2.0
// Tokens outside the model's vocabulary, including special ones. They are found in the text before anything else.
#pragma once

#include <algorithm>
#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "kto/core/error.hpp"
#include "kto/io/json.hpp"
#include "kto/text/regex/code_points.hpp"
#include "kto/text/tokenizer/normalizer.hpp"
#include "kto/text/tokenizer/step_spec.hpp"
#include "kto/text/tokenizer/text_trie.hpp"
#include "kto/text/tokenizer/vocabulary.hpp"

namespace kto::tok {

struct AddedToken {
  std::string content;
  bool single_word = false, lstrip = false, rstrip = false;
  bool normalized = true;  ///< matched in the normalized text, not in the original
  bool special = false;
  bool is_text = false;  ///< only its text was given; it counts as another token than one with the same flags

  auto operator<=>(const AddedToken&) const = default;

  /// A special token of which only the text is known.
  static AddedToken special_from(std::string text) { return {std::move(text), false, false, false, false, true, true}; }

  /// From {"content": ..., "lstrip": ...}. Absent flags are false; `normalized` defaults to the opposite of `special`.
  static AddedToken from_json(const Json& spec, std::string_view where) {
    AddedToken token{json_text(spec, "content", where)};
    token.single_word = json_value(spec, "single_word", false, where);
    token.lstrip = json_value(spec, "lstrip", false, where);
    token.rstrip = json_value(spec, "rstrip", false, where);
    token.special = json_value(spec, "special", false, where);
    token.normalized = json_value(spec, "normalized", !token.special, where);
    return token;
  }
};

/// A part of the text: an added token, or the text between two of them.
struct TextPart {
  std::size_t begin, end;
  std::int32_t id = -1;  ///< -1: ordinary text
};

class AddedTokens {
 public:
  /// Adds tokens, or updates the flags of existing ones. A token in the vocabulary keeps its id; others get the next
  /// free ids. Call prepare() afterwards.
  void add(const std::vector<AddedToken>& tokens, const Vocabulary& vocabulary) {
    const auto vocabulary_size = static_cast<std::int32_t>(vocabulary.size());
    std::int32_t next = vocabulary_size;
    if (!by_id_.empty() && (by_id_.rbegin()->first >= vocabulary_size || vocabulary_size == 0))
      next = by_id_.rbegin()->first + 1;
    for (const AddedToken& token : tokens) {
      if (token.content.empty()) continue;
      std::int32_t id = this->id(token.content);
      if (id < 0) id = vocabulary.id(token.content);
      if (id < 0) id = next++;
      ids_[token.content] = id;
      by_id_[id] = token;
      if (token.special) special_.insert(token.content);
      if (token.normalized) once_normalized_.insert(id);
    }
  }

  /// Builds the search index. Throws Error naming `where` if two tokens are equal after normalization.
  void prepare(const Normalizer& normalizer, std::string_view where) {
    raw_ = {};
    normalized_ = {};
    normalized_text_.clear();
    for (const auto& [id, token] : by_id_) {
      std::string text = token.content;
      if (token.normalized && !normalizer.empty()) text = normalizer(text);
      if (once_normalized_.contains(id)) normalized_text_[id] = normalizer(token.content);
      check(!text.empty(), where, ": nothing is left of the added token ", Json(token.content).dump(), " (id ", id,
            ") after normalization, so it would match between any two characters; set its \"normalized\" to false");
      check((token.normalized ? normalized_ : raw_).add(text, id), where,
            ": two added tokens are equal after normalization: ", Json(text).dump());
    }
    raw_.link();
    normalized_.link();
  }

  /// Splits `text` at the tokens that are matched in normalized text (if `normalized`) or in the original text.
  /// With `skip_special`, special tokens stay text.
  std::vector<TextPart> split(std::string_view text, bool normalized, bool skip_special) const {
    std::vector<TextPart> parts;
    std::size_t done = 0, spaces_end = 0;
    (normalized ? normalized_ : raw_).for_each_match(text, [&](std::size_t begin, std::size_t end, std::int32_t id) {
      const AddedToken& token = by_id_.at(id);
      if (skip_special && special_.contains(token.content)) return;
      if (token.single_word && (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(end)))) return;
      if (token.lstrip) begin = begin > done ? begin - trailing_space(text.substr(done, begin - done)) : done;
      if (token.rstrip) {
        if (end >= spaces_end) spaces_end = end + leading_space(text.substr(end));
        end = spaces_end;
      }
      if (done < begin) parts.push_back({done, begin});
      if (begin < end) parts.push_back({begin, end, id});  // the previous token may have stripped all of it
      done = end;
    });
    if (done != text.size()) parts.push_back({done, text.size()});
    return parts;
  }

  /// The id of an added token, or -1.
  std::int32_t id(std::string_view content) const {
    const auto found = ids_.find(std::string(content));
    return found == ids_.end() ? -1 : found->second;
  }

  const AddedToken* find(std::int32_t id) const {
    const auto found = by_id_.find(id);
    return found == by_id_.end() ? nullptr : &found->second;
  }

  /// The token in normalized text, which is where decoding starts.
  std::string_view normalized_text(std::int32_t id) const {
    const auto found = normalized_text_.find(id);
    return found == normalized_text_.end() ? std::string_view(by_id_.at(id).content) : std::string_view(found->second);
  }

  bool is_special(std::string_view content) const { return special_.contains(std::string(content)); }
  const std::map<std::int32_t, AddedToken>& by_id() const { return by_id_; }

 private:
  static bool is_word(char32_t c) {
    static const Regex word = onig_regex(R"([\w\x{200C}\x{200D}])", "word");
    std::string text;
    append_utf8(text, c);
    return word.matches_in(text);
  }
  static bool starts_with_word(std::string_view text) { return !text.empty() && is_word(code_point_at(text, 0)); }
  static bool ends_with_word(std::string_view text) {
    return !text.empty() && is_word(code_point_at(text, last_character(text)));
  }

  std::unordered_map<std::string, std::int32_t> ids_;
  std::map<std::int32_t, AddedToken> by_id_;
  std::unordered_set<std::string> special_;
  std::unordered_set<std::int32_t> once_normalized_;               ///< tokenizers decodes these normalized ever after
  std::unordered_map<std::int32_t, std::string> normalized_text_;  ///< of those
  TextTrie raw_, normalized_;
};

}  // namespace kto::tok
