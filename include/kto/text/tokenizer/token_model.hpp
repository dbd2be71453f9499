// SPDX-License-Identifier: Apache-2.0
// The model of tokenizer.json: from a piece of text to ids.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "kto/core/error.hpp"
#include "kto/io/json.hpp"
#include "kto/text/tokenizer/bpe.hpp"
#include "kto/text/tokenizer/tokenizer_json.hpp"
#include "kto/text/tokenizer/unigram.hpp"
#include "kto/text/tokenizer/vocabulary.hpp"
#include "kto/text/tokenizer/words.hpp"

namespace kto::tok {

class TokenModel {
 public:
  /// Takes the tables out of `json`. Throws Error naming `where` and what is malformed or unsupported.
  TokenModel(TokenizerJson& json, std::string_view where) : model_(make(json, where)) {}

  const Vocabulary& vocabulary() const {
    return std::visit([](const auto& model) -> const Vocabulary& { return model.vocabulary(); }, model_);
  }

  bool is_bpe() const { return std::holds_alternative<Bpe>(model_); }

  /// Appends the ids of one piece of text.
  void encode(std::string_view word, std::vector<std::int32_t>& ids) const {
    std::visit([&](const auto& model) { model.encode(word, ids); }, model_);
  }

  /// The type of the model `spec`. Old files do not name it; it shows in the other members.
  static std::string type_of(const Json& spec, const TokenizerJson& json) {
    if (spec.contains("type") && spec["type"].is_string()) return spec["type"].get<std::string>();
    if (!json.scores.empty()) return "Unigram";
    if (!json.has_merges && spec.contains("unk_token"))
      return spec.contains("max_input_chars_per_word") ? "WordPiece" : "WordLevel";
    return "BPE";
  }

 private:
  using Model = std::variant<Bpe, Unigram, WordPiece, WordLevel>;

  static Model make(TokenizerJson& json, std::string_view where) {
    const Json& spec = json.spec["model"];
    const std::string type = type_of(spec, json);
    const bool is_list = !json.scores.empty();
    check(is_list == (type == "Unigram"), where, ": the vocabulary of ", type, " must be ",
          is_list ? "an object of tokens and ids" : "a list of pieces and scores");
    if (type == "BPE") return Bpe(spec, std::move(json.vocabulary), json.merges, where);
    if (type == "Unigram") return Unigram(spec, std::move(json.vocabulary), std::move(json.scores), where);
    if (type == "WordPiece") return WordPiece(spec, std::move(json.vocabulary), where);
    return WordLevel(spec, std::move(json.vocabulary), where);
  }

  Model model_;
};

}  // namespace kto::tok
