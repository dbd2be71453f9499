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
#include "kto/text/tokenizer/tokenizer_class.hpp"

namespace kto::tok {

/// Special tokens that a class has by default, if tokenizer_config.json does not name them.
inline std::vector<std::pair<std::string, std::string>> default_special_tokens(std::string_view class_name) {
  constexpr const char* end = "<|endoftext|>";
  if (class_name == "GPT2Tokenizer" || class_name == "CodeGenTokenizer")
    return {{"unk_token", end}, {"bos_token", end}, {"eos_token", end}};
  if (class_name == "GPTNeoXTokenizer")
    return {{"unk_token", end}, {"bos_token", end}, {"eos_token", end}, {"pad_token", "<|padding|>"}};
  if (class_name == "Qwen2Tokenizer" || class_name == "Qwen3_5Tokenizer")
    return {{"unk_token", end}, {"eos_token", end}, {"pad_token", end}};
  if (class_name == "LlamaTokenizer") return {{"unk_token", "<unk>"}, {"bos_token", "<s>"}, {"eos_token", "</s>"}};
  if (class_name == "CodeLlamaTokenizer")
    return {{"unk_token", "<unk>"},          {"bos_token", "<s>"},
            {"eos_token", "</s>"},           {"prefix_token", "\u2581<PRE>"},
            {"middle_token", "\u2581<MID>"}, {"suffix_token", "\u2581<SUF>"},
            {"eot_token", "\u2581<EOT>"},    {"fill_token", "<FILL_ME>"}};
  if (class_name == "GemmaTokenizer")
    return {{"unk_token", "<unk>"},
            {"bos_token", "<bos>"},
            {"eos_token", "<eos>"},
            {"pad_token", "<pad>"},
            {"mask_token", "<mask>"}};
  if (class_name == "CohereTokenizer")
    return {{"unk_token", "<UNK>"},        {"bos_token", "<BOS_TOKEN>"}, {"eos_token", "<|END_OF_TURN_TOKEN|>"},
            {"pad_token", "<PAD>"},        {"cls_token", "<CLS>"},       {"sep_token", "<SEP>"},
            {"mask_token", "<MASK_TOKEN>"}};
  return {};
}

/// The text of a token given as a string or as an object with flags.
inline std::string special_token_text(const Json& config, const char* name, const char* otherwise,
                                      std::string_view where) {
  const Json value = json_value(config, name, Json(otherwise), where);
  return value.is_object() ? json_value<std::string>(value, "content", otherwise, where)
                           : json_value<std::string>(config, name, otherwise, where);
}

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

/// Rewrites `spec`, a tokenizer.json without vocabulary and merges, as the class would build it. `config` is the object
/// in tokenizer_config.json. Throws Error naming `where` for an unsupported class.
inline void apply_class(Json& spec, std::string_view class_name, const Json& config, std::string_view where) {
  if (class_name == plain_class) return;
  constexpr const char* qwen2 =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
      R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
  constexpr const char* qwen3_5 =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|)"
      R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
  const bool is_llama = class_name == "LlamaTokenizer" || class_name == "CodeLlamaTokenizer";
  const bool prefix_space = json_value(config, "add_prefix_space", is_llama, where);
  spec["model"] = {{"type", json_value<std::string>(spec["model"], "type", "BPE", where)}};
  spec["added_tokens"] = Json::array();
  spec["normalizer"] = nullptr;
  if (class_name == "GPT2Tokenizer" || class_name == "CodeGenTokenizer") {
    set_byte_level(spec, prefix_space, nullptr);
  } else if (class_name == "GPTNeoXTokenizer") {
    spec["normalizer"] = {{"type", "NFC"}};
    spec["post_processor"] = nullptr;
    set_byte_level(spec, prefix_space, nullptr);
  } else if (class_name == "CohereTokenizer") {
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
    if (is_code) spec["model"]["unk_token"] = special_token_text(config, "unk_token", "<unk>", where);
  } else if (class_name == "GemmaTokenizer") {
    spec["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}};
    set_sentence_piece(
        spec,
        {{"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", "MergedWithPrevious"}, {"invert", false}},
        false);
    spec["model"]["unk_token"] = special_token_text(config, "unk_token", "<unk>", where);
  } else {
    fail(where, ": the tokenizer class ", class_name, " is not supported; set \"tokenizer_class\" to \"", plain_class,
         "\" to use tokenizer.json as it is");
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
