// SPDX-License-Identifier: Apache-2.0
// Text to token ids and back, from a tokenizer.json, with the same results as Hugging Face's tokenizers: its
// models, normalizers, pre-tokenizers, added tokens, post-processors and decoders.
// Use load_tokenizer (tokenizer_config.hpp) for a model folder: it follows transformers' AutoTokenizer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/core/error.hpp"
#include "kto/io/file.hpp"
#include "kto/text/tokenizer/added_tokens.hpp"
#include "kto/text/tokenizer/normalizer.hpp"
#include "kto/text/tokenizer/post_processor.hpp"
#include "kto/text/tokenizer/pre_tokenizer.hpp"
#include "kto/text/tokenizer/token_decoder.hpp"
#include "kto/text/tokenizer/token_model.hpp"
#include "kto/text/tokenizer/tokenizer_json.hpp"

namespace kto {

/// Const member functions may run on several threads at once.
class Tokenizer {
 public:
  /// Reads a tokenizer.json. As in transformers, its sections "truncation" and "padding" are ignored.
  /// Throws Error naming the file and what is malformed or unsupported.
  static Tokenizer from_file(const fs::path& tokenizer_json) {
    Tokenizer tokenizer(tok::read_tokenizer_json(tokenizer_json), tokenizer_json.string());
    tokenizer.prepare();
    return tokenizer;
  }

  /// The ids of `text`, which must be UTF-8 (otherwise throws Error with the byte offset). Special tokens that are
  /// spelled out in the text become their ids. With `add_special_tokens`, the post-processor adds its own, such as the
  /// beginning-of-text token.
  std::vector<std::int32_t> encode(std::string_view text, bool add_special_tokens) const {
    if (const std::size_t at = tok::find_invalid_utf8(text); at != std::string_view::npos)
      fail("the text to encode is not UTF-8: invalid byte at offset ", at, " of ", text.size());
    std::vector<std::int32_t> ids;
    for (const auto& raw : added_.split(text, false, splits_special_tokens_)) {
      if (raw.id >= 0)
        ids.push_back(raw.id);
      else
        encode_part(text.substr(raw.begin, raw.end - raw.begin), raw.begin == 0, ids);
    }
    return post_processor_(std::move(ids), add_special_tokens);
  }

  /// The text of `ids`. Unknown ids are skipped; bytes that are not UTF-8 become U+FFFD.
  std::string decode(const std::vector<std::int32_t>& ids, bool skip_special_tokens = false) const {
    std::vector<std::string> tokens;
    for (const std::int32_t id : ids) {
      if (!has(id)) continue;
      std::string token = this->token(id);
      if (!skip_special_tokens || !added_.is_special(token)) tokens.push_back(std::move(token));
    }
    std::string text = decoder_(std::move(tokens));
    return cleans_up_spaces_ ? tok::clean_up_spaces(std::move(text), false) : text;
  }

  bool has(std::int32_t id) const { return added_.find(id) != nullptr || model_.vocabulary().has(id); }

  /// The token as spelled in the file. Throws Error if there is none with this id.
  std::string token(std::int32_t id) const {
    if (added_.find(id) != nullptr) return std::string(added_.normalized_text(id));
    if (!model_.vocabulary().has(id)) fail("there is no token with the id ", id, " (ids end at ", id_end(), ")");
    return std::string(model_.vocabulary().piece(id));
  }

  /// The bytes of the token within a text; possibly a part of a character.
  std::string piece_text(std::int32_t id) const {
    if (const auto* added = added_.find(id)) return added->content;
    return decoder_.bytes_of(token(id));
  }

  /// The id of a token as spelled in the file.
  std::optional<std::int32_t> id(std::string_view token) const {
    std::int32_t found = added_.id(token);
    if (found < 0) found = model_.vocabulary().id(token);
    return found < 0 ? std::nullopt : std::optional(found);
  }

  bool is_special(std::int32_t id) const {
    const auto* added = added_.find(id);
    return added != nullptr && added_.is_special(added->content);
  }

  /// The number of tokens, including added ones.
  std::size_t vocab_size() const {
    std::size_t size = model_.vocabulary().size();
    for (const auto& [id, added] : added_.by_id()) size += model_.vocabulary().id(added.content) < 0;
    return size;
  }

  /// One past the largest id: the least number of rows that the model's embedding must have.
  std::int32_t id_end() const {
    const auto& added = added_.by_id();
    const auto end = static_cast<std::int32_t>(model_.vocabulary().id_end());
    return added.empty() ? end : std::max(end, added.rbegin()->first + 1);
  }

 private:
  friend class TokenizerLoader;

  Tokenizer(tok::TokenizerJson json, const std::string& where)
      : where_(where),
        normalizer_(part(json.spec, "normalizer"), where + ": normalizer"),
        pre_tokenizer_(part(json.spec, "pre_tokenizer"), where + ": pre_tokenizer"),
        post_processor_(part(json.spec, "post_processor"), where + ": post_processor"),
        decoder_(part(json.spec, "decoder"), where + ": decoder"),
        model_(json, where + ": model") {
    std::vector<tok::AddedToken> tokens;
    for (const Json& token : part(json.spec, "added_tokens"))
      tokens.push_back(tok::AddedToken::from_json(token, where + ": added_tokens"));
    add_tokens(tokens);
  }

  static Json part(const Json& spec, const char* key) { return spec.contains(key) ? spec[key] : Json(); }

  void add_tokens(const std::vector<tok::AddedToken>& tokens) { added_.add(tokens, model_.vocabulary()); }
  void prepare() { added_.prepare(normalizer_, where_ + ": added_tokens"); }

  /// Encodes text between special tokens: normalizes it, finds added tokens, splits and encodes the rest.
  void encode_part(std::string_view text, bool at_start, std::vector<std::int32_t>& ids) const {
    tok::NormalText normal{std::string(text), at_start ? tok::utf8_length(text[0]) : 0};
    normalizer_(normal);
    for (const auto& part : added_.split(normal.text, true, splits_special_tokens_)) {
      if (part.id >= 0) {
        ids.push_back(part.id);
        continue;
      }
      tok::Pieces pieces;
      pieces.text = normal.text.substr(part.begin, part.end - part.begin);
      pieces.spans = {{0, pieces.text.size()}};
      pieces.head = normal.head - std::min(normal.head, part.begin);
      pre_tokenizer_(pieces);
      for (const auto span : pieces.spans) model_.encode(pieces[span], ids);
    }
  }

  std::string where_;
  tok::Normalizer normalizer_;
  tok::PreTokenizer pre_tokenizer_;
  tok::PostProcessor post_processor_;
  tok::TokenDecoder decoder_;
  tok::TokenModel model_;
  tok::AddedTokens added_;
  bool splits_special_tokens_ = false;  ///< special tokens spelled out in a text stay text
  bool cleans_up_spaces_ = false;       ///< decoded text loses the spaces before punctuation
};

}  // namespace kto
