// SPDX-License-Identifier: Apache-2.0
// Models over whole words: WordPiece (BERT's: the longest piece first, arXiv:1609.08144) and WordLevel (the word or the
// unknown token). Ids equal those of Hugging Face's tokenizers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/core/error.hpp"
#include "kto/io/json.hpp"
#include "kto/text/regex/code_points.hpp"
#include "kto/text/tokenizer/step_spec.hpp"
#include "kto/text/tokenizer/text_trie.hpp"
#include "kto/text/tokenizer/vocabulary.hpp"

namespace kto::tok {

class WordLevel {
 public:
  /// `spec` is the value of "model" without its vocabulary. Throws Error naming `where`.
  WordLevel(const Json& spec, Vocabulary vocabulary, std::string_view where)
      : vocabulary_(std::move(vocabulary)), where_(where), unknown_(json_text(spec, "unk_token", where)) {}

  const Vocabulary& vocabulary() const { return vocabulary_; }

  /// Appends the id of one word.
  void encode(std::string_view word, std::vector<std::int32_t>& ids) const {
    const std::int32_t id = vocabulary_.id(word);
    ids.push_back(id >= 0 ? id : unknown_id(word));
  }

  /// The id of the unknown token, for a word. Throws Error if the vocabulary lacks it.
  std::int32_t unknown_id(std::string_view word) const {
    const std::int32_t id = vocabulary_.id(unknown_);
    check(id >= 0, where_, ": the text has the unknown word \"", word.substr(0, 200), "\", and the unk_token \"",
          unknown_, "\" is not in the vocabulary");
    return id;
  }

 private:
  Vocabulary vocabulary_;
  std::string where_, unknown_;
};

class WordPiece {
 public:
  /// Likewise.
  WordPiece(const Json& spec, Vocabulary vocabulary, std::string_view where)
      : words_(spec, std::move(vocabulary), where),
        longest_(json_value(spec, "max_input_chars_per_word", 100L, where)) {
    const auto prefix = json_value<std::string>(spec, "continuing_subword_prefix", "##", where);
    for (std::size_t id = 0; id < this->vocabulary().id_end(); ++id) {
      if (!this->vocabulary().has(static_cast<std::int32_t>(id))) continue;
      const std::string_view piece = this->vocabulary().piece(static_cast<std::int32_t>(id));
      const std::int32_t value = this->vocabulary().id(piece);
      if (!piece.empty()) first_.add(piece, value);
      if (piece.size() > prefix.size() && piece.starts_with(prefix)) later_.add(piece.substr(prefix.size()), value);
    }
    first_.link();
    later_.link();
  }

  const Vocabulary& vocabulary() const { return words_.vocabulary(); }

  /// Appends the ids of one word: the longest piece at its beginning, then the longest that continues it, and so on;
  /// the unknown token if that does not work out.
  void encode(std::string_view word, std::vector<std::int32_t>& ids) const {
    const std::size_t before = ids.size();
    if (std::ranges::count_if(word, [](char c) { return !detail::is_continuation(c); }) <= longest_) {
      thread_local std::vector<TextTrie::Match> first, later;  // room only
      first_.longest_matches(word, first);
      later_.longest_matches(word, later);
      std::size_t at = 0;
      while (at < word.size()) {
        const TextTrie& pieces = at == 0 ? first_ : later_;
        const TextTrie::Match match = (at == 0 ? first : later)[at];
        if (!match) break;
        ids.push_back(pieces.value(match));
        at += pieces.size(match);
      }
      if (at == word.size()) return;
      ids.resize(before);
    }
    ids.push_back(words_.unknown_id(word));
  }

 private:
  WordLevel words_;
  std::int64_t longest_;  ///< in characters; longer words are unknown
  TextTrie first_, later_;
};

}  // namespace kto::tok
