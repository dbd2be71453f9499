// SPDX-License-Identifier: Apache-2.0
// The tokenizer classes of transformers (5.24) that build their tokenizer from the vocabulary, whatever else
// tokenizer.json says. One row a class; the steps that it builds are in class_spec.hpp.
#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kto::tok {

/// What a class fixes.
struct ClassRules {
  std::string_view name;
  std::string_view model;       ///< the type of its model
  std::string_view vocabulary;  ///< its file beside tokenizer.json; vocab.json comes with merges.txt
  std::vector<std::pair<std::string, std::string>> special_tokens;  ///< by default
  std::vector<std::string_view> before{}, after{};  ///< special tokens around a text; none: what the file says
  std::vector<std::string_view> aliases{};          ///< other names of the class
};

/// The class of this name; null if there is none, such as for the class that uses tokenizer.json as it is.
inline const ClassRules* class_rules(std::string_view name) {
  static constexpr const char* end = "<|endoftext|>";
  using Names = std::vector<std::pair<std::string, std::string>>;
  static const Names roberta{{"bos_token", "<s>"},    {"eos_token", "</s>"},  {"unk_token", "<unk>"},
                             {"sep_token", "</s>"},   {"pad_token", "<pad>"}, {"cls_token", "<s>"},
                             {"mask_token", "<mask>"}};
  static const Names bert{{"unk_token", "[UNK]"},
                          {"sep_token", "[SEP]"},
                          {"pad_token", "[PAD]"},
                          {"cls_token", "[CLS]"},
                          {"mask_token", "[MASK]"}};
  static const auto with = [](Names tokens, const Names& more) {
    tokens.insert(tokens.end(), more.begin(), more.end());
    return tokens;
  };
  static const std::array classes{
      ClassRules{"GPT2Tokenizer", "BPE", "vocab.json", {{"unk_token", end}, {"bos_token", end}, {"eos_token", end}}},
      ClassRules{"CodeGenTokenizer", "BPE", "vocab.json", {{"unk_token", end}, {"bos_token", end}, {"eos_token", end}}},
      ClassRules{"GPTNeoXTokenizer",
                 "BPE",
                 "vocab.json",
                 {{"unk_token", end}, {"bos_token", end}, {"eos_token", end}, {"pad_token", "<|padding|>"}}},
      ClassRules{"Qwen2Tokenizer", "BPE", "vocab.json", {{"unk_token", end}, {"eos_token", end}, {"pad_token", end}}},
      ClassRules{
          "Qwen3_5Tokenizer", "BPE", "tokenizer.json", {{"unk_token", end}, {"eos_token", end}, {"pad_token", end}}},
      ClassRules{"CohereTokenizer",
                 "BPE",
                 "vocab.json",
                 {{"unk_token", "<UNK>"},
                  {"bos_token", "<BOS_TOKEN>"},
                  {"eos_token", "<|END_OF_TURN_TOKEN|>"},
                  {"pad_token", "<PAD>"},
                  {"cls_token", "<CLS>"},
                  {"sep_token", "<SEP>"},
                  {"mask_token", "<MASK_TOKEN>"}}},
      ClassRules{.name = "LlamaTokenizer",
                 .model = "BPE",
                 .vocabulary = "tokenizer.model",
                 .special_tokens = {{"unk_token", "<unk>"}, {"bos_token", "<s>"}, {"eos_token", "</s>"}},
                 .aliases = {"Phi3Tokenizer"}},
      ClassRules{"CodeLlamaTokenizer",
                 "BPE",
                 "tokenizer.model",
                 {{"unk_token", "<unk>"},
                  {"bos_token", "<s>"},
                  {"eos_token", "</s>"},
                  {"prefix_token", "\u2581<PRE>"},
                  {"middle_token", "\u2581<MID>"},
                  {"suffix_token", "\u2581<SUF>"},
                  {"eot_token", "\u2581<EOT>"},
                  {"fill_token", "<FILL_ME>"}}},
      ClassRules{"GemmaTokenizer",
                 "BPE",
                 "tokenizer.model",
                 {{"unk_token", "<unk>"},
                  {"bos_token", "<bos>"},
                  {"eos_token", "<eos>"},
                  {"pad_token", "<pad>"},
                  {"mask_token", "<mask>"}}},
      ClassRules{.name = "T5Tokenizer",
                 .model = "Unigram",
                 .vocabulary = "spiece.model",
                 .special_tokens = {{"eos_token", "</s>"}, {"unk_token", "<unk>"}, {"pad_token", "<pad>"}},
                 .after = {"eos_token"}},
      ClassRules{"RobertaTokenizer",
                 "BPE",
                 "vocab.json",
                 roberta,
                 {"cls_token"},
                 {"sep_token"},
                 {"BartTokenizer", "LEDTokenizer", "LongformerTokenizer", "MvpTokenizer"}},
      ClassRules{"XLMRobertaTokenizer", "Unigram", "sentencepiece.bpe.model", roberta, {"bos_token"}, {"eos_token"}},
      ClassRules{
          "BertTokenizer",
          "WordPiece",
          "vocab.txt",
          bert,
          {"cls_token"},
          {"sep_token"},
          {"ElectraTokenizer", "LayoutLMTokenizer", "LxmertTokenizer", "MobileBertTokenizer", "SqueezeBertTokenizer"}},
      ClassRules{"DistilBertTokenizer", "WordPiece", "vocab.txt", bert, {"cls_token"}, {"sep_token"}},
      ClassRules{"AlbertTokenizer",
                 "Unigram",
                 "spiece.model",
                 {{"bos_token", "[CLS]"},
                  {"eos_token", "[SEP]"},
                  {"unk_token", "<unk>"},
                  {"sep_token", "[SEP]"},
                  {"pad_token", "<pad>"},
                  {"cls_token", "[CLS]"},
                  {"mask_token", "[MASK]"}},
                 {"cls_token"},
                 {"sep_token"}},
      ClassRules{"DebertaTokenizer",
                 "BPE",
                 "vocab.json",
                 with({{"bos_token", "[CLS]"}, {"eos_token", "[SEP]"}}, bert),
                 {"cls_token"},
                 {"sep_token"}},
      ClassRules{"DebertaV2Tokenizer",
                 "Unigram",
                 "spm.model",
                 with({{"bos_token", "[CLS]"}, {"eos_token", "[SEP]"}}, bert),
                 {"cls_token"},
                 {"sep_token"}},
  };
  const auto* found = std::ranges::find_if(classes, [&](const ClassRules& rules) {
    return rules.name == name || std::ranges::find(rules.aliases, name) != rules.aliases.end();
  });
  return found == classes.end() ? nullptr : found;
}

}  // namespace kto::tok
