// SPDX-License-Identifier: Apache-2.0
// How a tokenizer class of transformers (5.24) changes tokenizer.json: the plain class takes it as is; the others keep
// the vocabulary, the merges and the post-processor, and replace the normalizer, pre-tokenizer, decoder and model
// options by their own, whatever the file says.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/core/error.hpp"
#include "kto/io/json.hpp"
#include "kto/text/tokenizer/token_model.hpp"
#include "kto/text/tokenizer/tokenizer_class.hpp"
#include "kto/text/tokenizer/tokenizer_json.hpp"

namespace kto::tok {

/// For GPT-2 and its descendants: bytes, split by a pattern.
inline void set_byte_level(Json& spec, bool adds_prefix_space, const char* pattern) {
  Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", adds_prefix_space}, {"use_regex", pattern == nullptr}};
  if (pattern != nullptr) {
    const Json split = {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}};
    bytes = {{"type", "Sequence"}, {"pretokenizers", Json::array({split, bytes})}};
  }
  spec["pre_tokenizer"] = bytes;
  spec["decoder"] = {{"type", "ByteLevel"}};
}

/// SentencePiece's way: spaces become a mark, unknown characters become bytes.
inline void set_sentence_piece(Json& spec, const Json& pre_tokenizer, bool strips_first_space) {
  const Json mark = "\u2581";
  Json steps = Json::array({{{"type", "Replace"}, {"pattern", {{"String", mark}}}, {"content", " "}},
                            {{"type", "ByteFallback"}},
                            {{"type", "Fuse"}}});
  if (strips_first_space) steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  spec["decoder"] = {{"type", "Sequence"}, {"decoders", steps}};
  spec["pre_tokenizer"] = pre_tokenizer;
  spec["model"]["fuse_unk"] = true;
  spec["model"]["byte_fallback"] = true;
}

/// The step "Precompiled" of a normalizer, if it has one: the only part that classes with a Unigram model keep.
inline Json precompiled_in(const Json& spec) {
  const Json normalizer = spec.contains("normalizer") ? spec["normalizer"] : Json();
  if (!normalizer.is_object()) return nullptr;
  for (const Json& step : normalizer.contains("normalizers") ? normalizer["normalizers"] : Json::array({normalizer}))
    if (step.is_object() && step.contains("precompiled_charsmap")) return step;
  return nullptr;
}

/// Spaces as marks before words, for the Unigram models of encoders.
inline void set_metaspace(Json& spec, const char* scheme, Json before) {
  Json mark = {{"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", scheme}, {"split", true}};
  spec["decoder"] = mark;
  before.push_back(std::move(mark));
  spec["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", std::move(before)}};
}

inline Json regex_replace(const char* pattern, const char* content) {
  return {{"type", "Replace"}, {"pattern", {{"Regex", pattern}}}, {"content", content}};
}
inline Json text_replace(const char* text, const char* content) {
  return {{"type", "Replace"}, {"pattern", {{"String", text}}}, {"content", content}};
}

/// Classes of encoders and of encoder-decoders that are built on Unigram.
inline void set_unigram_class(Json& spec, std::string_view class_name, const Json& config, const Json& precompiled,
                              std::int32_t unknown_id, std::string_view where) {
  const bool is_deberta = class_name == "DebertaV2Tokenizer";
  const bool prefix_space = json_value(config, "add_prefix_space", true, where);
  Json steps = Json::array(), splits = Json::array();
  if (is_deberta) {
    if (json_value(config, "do_lower_case", false, where)) steps.push_back({{"type", "Lowercase"}});
    steps.push_back(regex_replace(R"(\s{2,}|[\n\r\t])", " "));
    steps.push_back({{"type", "NFC"}});
    steps.push_back({{"type", "Strip"}, {"strip_left", false}, {"strip_right", true}});
    if (json_value(config, "split_by_punct", false, where))
      splits.push_back({{"type", "Punctuation"}, {"behavior", "Isolated"}});
  } else {
    splits.push_back({{"type", "WhitespaceSplit"}});
  }
  if (class_name == "AlbertTokenizer") {
    for (const char* quotes : {"``", "''"}) steps.push_back(text_replace(quotes, "\""));
    if (!json_value(config, "keep_accents", false, where)) {
      steps.push_back({{"type", "NFKD"}});
      steps.push_back({{"type", "StripAccents"}});
    }
    if (json_value(config, "do_lower_case", true, where)) steps.push_back({{"type", "Lowercase"}});
  }
  if (!is_deberta && !precompiled.is_null()) steps.push_back(precompiled);
  spec["normalizer"] = {{"type", "Sequence"}, {"normalizers", steps}};
  const char* without = is_deberta ? "first" : "never";
  set_metaspace(spec, prefix_space || class_name == "T5Tokenizer" ? "always" : without, splits);
  spec["model"]["unk_id"] = unknown_id;
}

/// BERT's steps for words and their parts.
inline void set_word_piece(Json& spec, const Json& config, std::string_view where) {
  spec["normalizer"] = {{"type", "BertNormalizer"},
                        {"clean_text", true},
                        {"handle_chinese_chars", json_value(config, "tokenize_chinese_chars", true, where)},
                        {"strip_accents", json_value(config, "strip_accents", Json(), where)},
                        {"lowercase", json_value(config, "do_lower_case", true, where)}};
  spec["pre_tokenizer"] = {{"type", "BertPreTokenizer"}};
  spec["decoder"] = {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}};
  spec["model"]["continuing_subword_prefix"] = "##";
  spec["model"]["max_input_chars_per_word"] = 100;
}

/// Rewrites json.spec as the class would build it. `config` is the object in tokenizer_config.json, `unknown` the text
/// of the unknown token. Throws Error naming `where` for an unsupported class, or for one of another model.
inline void apply_class(TokenizerJson& json, std::string_view class_name, const Json& config,
                        const std::string& unknown, std::string_view where) {
  if (class_name == plain_class) return;
  const ClassRules* rules = class_rules(class_name);
  const std::string plainly =
      "; set \"tokenizer_class\" to \"" + std::string(plain_class) + "\" to use tokenizer.json as it is";
  check(rules != nullptr, where, ": the tokenizer class ", class_name, " is not supported", plainly);
  Json& spec = json.spec;
  const std::string model = TokenModel::type_of(spec["model"], json);
  check(model == rules->model, where, ": the tokenizer class ", class_name, " has a ", rules->model,
        " model, but the folder has one of the type ", model, plainly);
  constexpr const char* qwen2 =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
      R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
  constexpr const char* qwen3_5 =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|)"
      R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
  const bool is_llama = class_name == "LlamaTokenizer" || class_name == "CodeLlamaTokenizer";
  const bool prefix_space = json_value(config, "add_prefix_space", is_llama, where);
  const Json precompiled = precompiled_in(spec);
  spec["model"] = {{"type", model}};
  spec["added_tokens"] = Json::array();
  spec["normalizer"] = nullptr;
  if (class_name == "CohereTokenizer") {
    spec["normalizer"] = {{"type", "NFC"}};
    set_byte_level(spec, prefix_space, nullptr);
    const Json digits = {{"type", "Digits"}, {"individual_digits", true}};
    spec["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", Json::array({digits, spec["pre_tokenizer"]})}};
  } else if (class_name == "Qwen2Tokenizer" || class_name == "Qwen3_5Tokenizer") {
    spec["normalizer"] = {{"type", "NFC"}};
    set_byte_level(spec, prefix_space, class_name == "Qwen2Tokenizer" ? qwen2 : qwen3_5);
  } else if (is_llama) {
    const bool is_code = class_name == "CodeLlamaTokenizer";
    const bool is_legacy = !is_code && json_value(config, "legacy", false, where);
    const char* scheme = !prefix_space ? "never" : is_legacy ? "always" : "first";
    set_sentence_piece(spec,
                       {{"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", scheme}, {"split", false}},
                       prefix_space || is_code);
    if (is_code) spec["model"]["unk_token"] = unknown;
  } else if (class_name == "GemmaTokenizer") {
    spec["normalizer"] = text_replace(" ", "\u2581");
    set_sentence_piece(
        spec,
        {{"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", "MergedWithPrevious"}, {"invert", false}},
        false);
    spec["model"]["unk_token"] = unknown;
  } else if (rules->model == "WordPiece") {
    set_word_piece(spec, config, where);
    spec["model"]["unk_token"] = unknown;
  } else if (rules->model == "Unigram") {
    std::int32_t unknown_id = class_name == "T5Tokenizer" ? 2 : class_name == "XLMRobertaTokenizer" ? 3 : 1;
    if (class_name == "DebertaV2Tokenizer") {
      const std::int32_t id = json.vocabulary.id(unknown);
      unknown_id = id >= 0 && json.scores[static_cast<std::size_t>(id)] == 0
                       ? id
                       : json_value(config, "unk_id", unknown_id, where);
    }
    set_unigram_class(spec, class_name, config, precompiled, unknown_id, where);
  } else {  // GPT-2 and those with its steps
    if (class_name == "GPTNeoXTokenizer") spec["normalizer"] = {{"type", "NFC"}};
    set_byte_level(spec, prefix_space, nullptr);
  }
}

/// Mistral published tokenizers that split text by a wrong pattern; a folder may request the right one with
/// "fix_mistral_regex". As in transformers, this applies only to models saved before transformers 5.
inline void fix_mistral_pattern(Json& spec, const Json& model_config, std::string_view where) {
  constexpr std::string_view mistral[] = {"mistral", "mistral3", "voxtral", "ministral", "pixtral"};
  const std::string type = json_value<std::string>(model_config, "model_type", "mistral", where);
  const std::string version = json_value<std::string>(model_config, "transformers_version", "0", where);
  const bool is_old = version.find('.') <= 1 ? version[0] < '5' : version == "0";
  Json& current = spec["pre_tokenizer"];
  if (model_config.empty() || !contains(mistral, type) || !is_old || current.is_null()) return;
  const Json split = {{"type", "Split"},
                      {"pattern",
                       {{"Regex", R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
                                  R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
                                  R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}}},
                      {"behavior", "Isolated"}};
  if (current["type"] == "Sequence") {
    current["pretokenizers"][0] = split;
    return;
  }
  if (current["type"] == "Metaspace")
    current = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  current = {{"type", "Sequence"}, {"pretokenizers", Json::array({split, current})}};
}

}  // namespace kto::tok
