// SPDX-License-Identifier: Apache-2.0
// Turns a model of SentencePiece into what a tokenizer.json would hold, as transformers (5.24) does: so its ids are
// those of transformers, and all else has one code path.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/io/json.hpp"
#include "kto/text/regex/code_points.hpp"
#include "kto/text/tokenizer/bpe.hpp"
#include "kto/text/tokenizer/class_rules.hpp"
#include "kto/text/tokenizer/class_spec.hpp"
#include "kto/text/tokenizer/precompiled.hpp"
#include "kto/text/tokenizer/sentence_piece.hpp"
#include "kto/text/tokenizer/special_tokens.hpp"
#include "kto/text/tokenizer/tokenizer_json.hpp"
#include "kto/text/tokenizer/vocabulary.hpp"

namespace kto::tok {

inline Json precompiled_step(const SentencePieceModel& model) {
  return {{"type", "Precompiled"}, {"precompiled_charsmap", encode_base64(model.charsmap)}};
}

/// The merges that give these pieces, in the order of the pieces: each split of a piece into two of `parts`, the one
/// with the shortest left part first.
inline MergeList merges_of(const std::vector<std::string_view>& pieces, const Vocabulary& parts) {
  MergeList merges;
  for (const std::string_view piece : pieces)
    for (std::size_t at = 0; at < piece.size();) {
      at += utf8_length(piece[at]);
      if (at < piece.size() && parts.id(piece.substr(0, at)) >= 0 && parts.id(piece.substr(at)) >= 0)
        merges.emplace_back(piece.substr(0, at), piece.substr(at));
    }
  return merges;
}

/// The vocabulary of the model for a class with rules of its own, which adds the steps. `special` names the tokens.
inline TokenizerJson vocabulary_for_class(const SentencePieceModel& model, const ClassRules& rules, const Json& config,
                                          const SpecialTokens& special, std::string_view where) {
  TokenizerJson out;
  out.spec["model"] = {{"type", rules.model}};
  if (!model.charsmap.empty()) out.spec["normalizer"] = precompiled_step(model);
  if (rules.model == "BPE") {
    for (const auto& piece : model.pieces)
      out.vocabulary.add(piece.text, static_cast<std::int32_t>(&piece - model.pieces.data()));
    std::vector<std::string_view> pieces;
    for (std::int32_t id = 0; id < static_cast<std::int32_t>(model.pieces.size()); ++id)
      if (const auto& text = model.pieces[static_cast<std::size_t>(id)].text; out.vocabulary.id(text) == id)
        pieces.push_back(text);
    out.merges = merges_of(pieces, out.vocabulary);
    out.has_merges = true;
    return out;
  }
  const auto add = [&](std::string_view text, double score) {
    out.vocabulary.append(text);
    out.scores.push_back(score);
  };
  const auto name = [&](const char* token, const char* otherwise) {
    const std::string* text = special.text(token);
    return text == nullptr ? std::string(otherwise) : *text;
  };
  std::size_t first = 0;
  if (rules.name == "XLMRobertaTokenizer") {  // fairseq's order
    first = std::min<std::size_t>(3, model.pieces.size());
    add(name("bos_token", "<s>"), 0);
    add(name("pad_token", "<pad>"), 0);
    add(name("eos_token", "</s>"), 0);
    add(name("unk_token", "<unk>"), 0);
  }
  for (std::size_t i = first; i < model.pieces.size(); ++i) add(model.pieces[i].text, model.pieces[i].score);
  if (rules.name == "XLMRobertaTokenizer") add(name("mask_token", "<mask>"), 0);
  if (rules.name == "T5Tokenizer")
    for (int i = num_extra_ids(config, where); i-- > 0;) add(extra_id(i), 0);
  return out;
}

/// Matches each of the texts itself, the longest where several begin.
inline std::string any_of(std::vector<std::string> texts) {
  std::ranges::sort(texts, std::greater(), [](const std::string& text) { return text.size(); });
  std::string pattern;
  for (const std::string& text : texts) {
    if (!pattern.empty()) pattern += '|';
    for (const char c : text) {
      if (std::string_view("()[]{}?*+-|^$\\.&~# ").find(c) != std::string_view::npos) pattern += '\\';
      pattern += c;
    }
  }
  return pattern;
}

/// The steps around the model by SentencePiece's own settings.
inline void set_plain_steps(Json& spec, const SentencePieceModel& model, bool is_legacy,
                            std::vector<std::string> user_defined) {
  Json normalizers = Json::array(), splits = Json::array();
  if (!model.charsmap.empty()) normalizers.push_back(precompiled_step(model));
  if (model.remove_extra_whitespaces) {
    normalizers.push_back(regex_replace(R"(\A +|(?<! ) +\z)", ""));  // the lookbehind keeps it linear
    normalizers.push_back(regex_replace(" {2,}", " "));
  }
  if (model.escape_whitespaces) normalizers.push_back(text_replace(" ", "\u2581"));
  if (model.add_dummy_prefix && is_legacy) normalizers.push_back(regex_replace("\\A\u2581", "\u2581\u2581"));
  spec["normalizer"] = {{"type", "Sequence"}, {"normalizers", normalizers}};
  if (model.add_dummy_prefix)
    splits.push_back({{"type", "Metaspace"},
                      {"replacement", "\u2581"},
                      {"prepend_scheme", is_legacy ? "always" : "first"},
                      {"split", false}});
  if (!user_defined.empty())
    splits.push_back(
        {{"type", "Split"}, {"pattern", {{"Regex", any_of(std::move(user_defined))}}}, {"behavior", "Isolated"}});
  if (!splits.empty()) spec["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", splits}};
  Json decoders = Json::array({text_replace("\u2581", " ")});
  if (model.byte_fallback) decoders.push_back({{"type", "ByteFallback"}});
  if (model.add_dummy_prefix || model.byte_fallback) decoders.push_back({{"type", "Fuse"}});
  if (model.add_dummy_prefix) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  spec["decoder"] = {{"type", "Sequence"}, {"decoders", decoders}};
}

/// The texts of the pieces by id. Added tokens of the folder rename pieces of a BPE model.
inline std::vector<std::string> renamed_pieces(const SentencePieceModel& model, const SpecialTokens& special) {
  std::vector<std::string> names;
  Vocabulary kept;
  for (const auto& piece : model.pieces) {
    const auto id = static_cast<std::int32_t>(names.size());
    names.push_back(piece.text);
    if (!special.added.contains(id)) kept.add(piece.text, id);
  }
  for (const auto& [id, token] : special.added)
    if (!model.is_unigram && static_cast<std::size_t>(id) < names.size() && kept.id(token.content) < 0)
      names[static_cast<std::size_t>(id)] = token.content;
  return names;
}

/// The whole tokenizer of the model for the plain class, which encodes as SentencePiece does: merges go by the scores
/// of the pieces, and user-defined pieces are never cut. Added tokens of the folder are matched in the original text.
inline TokenizerJson plain_tokenizer(const SentencePieceModel& model, const Json& config, SpecialTokens& special,
                                     std::string_view where) {
  TokenizerJson out;
  const std::vector<std::string> names = renamed_pieces(model, special);
  std::vector<std::string> user_defined;
  std::vector<std::size_t> normal;  // ids
  for (std::size_t id = 0; id < names.size(); ++id) {
    if (model.pieces[id].type == SentencePieceModel::user_defined) user_defined.push_back(names[id]);
    if (model.pieces[id].type == SentencePieceModel::normal) normal.push_back(id);
    if (model.is_unigram) {
      out.vocabulary.append(names[id]);
      out.scores.push_back(model.pieces[id].score);
    } else {
      out.vocabulary.add(names[id], static_cast<std::int32_t>(id));
    }
  }
  if (model.is_unigram) {
    out.spec["model"] = {{"type", "Unigram"}, {"unk_id", model.unk_id}, {"byte_fallback", model.byte_fallback}};
  } else {
    out.spec["model"] = {{"type", "BPE"},
                         {"unk_token", model.unk_piece},
                         {"fuse_unk", true},
                         {"byte_fallback", model.byte_fallback},
                         {"ignore_merges", !user_defined.empty()}};
    std::erase_if(normal,
                  [&](std::size_t id) { return out.vocabulary.id(names[id]) != static_cast<std::int32_t>(id); });
    std::ranges::sort(normal, {}, [&](std::size_t id) { return std::pair(-model.pieces[id].score, id); });
    Vocabulary parts;
    std::vector<std::string_view> texts;
    for (const std::size_t id : normal) {
      parts.add(names[id], static_cast<std::int32_t>(id));
      texts.push_back(names[id]);
    }
    out.merges = merges_of(texts, parts);
    out.has_merges = true;
  }
  set_plain_steps(out.spec, model, json_value(config, "legacy", true, where), std::move(user_defined));
  if (model.add_dummy_prefix)
    for (auto& [id, token] : special.added) token.normalized = false;
  return out;
}

}  // namespace kto::tok
