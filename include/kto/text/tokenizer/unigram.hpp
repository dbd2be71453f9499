// SPDX-License-Identifier: Apache-2.0
// SentencePiece's unigram model (arXiv:1804.10959): of all ways to cut a word into pieces, the one with the largest sum
// of scores. Ids equal those of Hugging Face's tokenizers, also for ties and unknown characters.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/core/error.hpp"
#include "kto/io/json.hpp"
#include "kto/text/regex/code_points.hpp"
#include "kto/text/tokenizer/text_trie.hpp"
#include "kto/text/tokenizer/vocabulary.hpp"

namespace kto::tok {

class Unigram {
 public:
  /// `spec` is the value of "model" without its vocabulary; `scores` are the log-probs of the pieces by id. Throws
  /// Error naming `where`.
  Unigram(const Json& spec, Vocabulary vocabulary, std::vector<double> scores, std::string_view where)
      : vocabulary_(std::move(vocabulary)), scores_(std::move(scores)), where_(where) {
    const auto unknown = json_value(spec, "unk_id", Json(), where);
    if (!unknown.is_null()) {
      unknown_id_ = json_as<std::int32_t>(unknown).value_or(-1);
      check(unknown_id_ >= 0 && static_cast<std::size_t>(unknown_id_) < scores_.size(), where, ": \"unk_id\" is ",
            unknown.dump(), "; expected the number of one of the ", scores_.size(), " pieces");
    }
    byte_ids_ = vocabulary_.byte_ids(json_value(spec, "byte_fallback", false, where));
    for (std::size_t id = 0; id < scores_.size(); ++id) {
      const std::string_view piece = vocabulary_.piece(static_cast<std::int32_t>(id));
      unknown_score_ = std::min(unknown_score_, scores_[id]);
      if (!piece.empty()) pieces_.add(piece, vocabulary_.id(piece));
    }
    unknown_score_ -= 10;
    pieces_.link();
  }

  const Vocabulary& vocabulary() const { return vocabulary_; }

  /// Appends the ids of one piece of text.
  void encode(std::string_view word, std::vector<std::int32_t>& ids) const {
    check(word.size() <= INT32_MAX, where_, ": a word of the text has more than 2^31 bytes");
    const auto path = best_path(word);
    std::vector<std::int32_t> reversed;
    std::size_t unknown_end = 0;  // of the unknown characters in a row; 0: none
    const auto flush = [&](std::size_t begin) {
      if (unknown_end > 0) append_unknown(word.substr(begin, unknown_end - begin), reversed);
      unknown_end = 0;
    };
    for (std::size_t end = word.size(); end > 0; end = path[end].begin) {
      if (path[end].id == unknown_id_) {
        if (unknown_end == 0) unknown_end = end;
      } else {
        flush(end);
        reversed.push_back(path[end].id);
      }
    }
    flush(0);
    ids.insert(ids.end(), reversed.rbegin(), reversed.rend());
  }

 private:
  /// The last piece of the best path that ends at a byte.
  struct Step {
    double score = 0;
    std::uint32_t begin = 0;
    std::int32_t id = -1;
    bool is_set = false;
  };

  std::vector<Step> best_path(std::string_view word) const {
    std::vector<TextTrie::Match> matches;
    pieces_.longest_matches(word, matches);
    std::vector<Step> path(word.size() + 1);
    for (std::size_t begin = 0, next = 0; begin < word.size(); begin = next) {
      next = begin + utf8_length(word[begin]);
      const auto offer = [&](std::size_t end, double score, std::int32_t id) {
        Step& step = path[end];
        if (step.is_set && score <= step.score) return;
        check(id >= 0, where_, ": the text has the unknown character \"", word.substr(begin, next - begin),
              "\", and \"unk_id\" is missing");
        step = {score, static_cast<std::uint32_t>(begin), id, true};
      };
      bool has_character = false;
      for (auto match = matches[begin]; match; match = pieces_.shorter(match)) {
        const std::int32_t id = pieces_.value(match);
        const std::size_t end = begin + pieces_.size(match);
        offer(end, scores_[static_cast<std::size_t>(id)] + path[begin].score, id);
        has_character = has_character || end == next;
      }
      if (!has_character) offer(next, unknown_score_ + path[begin].score, unknown_id_);
    }
    return path;
  }

  /// Unknown characters in a row are one token, or their bytes.
  void append_unknown(std::string_view text, std::vector<std::int32_t>& reversed) const {
    const auto byte_id = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
    if (const std::int32_t id = vocabulary_.id(text); id >= 0)
      reversed.push_back(id);
    else if (std::ranges::all_of(text, [&](char byte) { return byte_id(byte) >= 0; }))
      for (std::size_t i = text.size(); i-- > 0;) reversed.push_back(byte_id(text[i]));
    else
      reversed.push_back(unknown_id_);
  }

  Vocabulary vocabulary_;
  std::vector<double> scores_;
  std::string where_;
  TextTrie pieces_;
  std::int32_t unknown_id_ = -1;
  double unknown_score_ = std::numeric_limits<double>::infinity();
  std::array<std::int32_t, 256> byte_ids_{};
};

}  // namespace kto::tok
