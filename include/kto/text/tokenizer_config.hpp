// SPDX-License-Identifier: Apache-2.0
// Loads the tokenizer of a model folder, with its special tokens and chat templates, exactly as transformers'
// AutoTokenizer.from_pretrained (5.24). Where transformers builds the tokenizer from its class instead of
// tokenizer.json, this does the same: the ids in training must match those of the programs that serve the model.
#pragma once

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/core/error.hpp"
#include "kto/io/file.hpp"
#include "kto/io/json.hpp"
#include "kto/text/tokenizer.hpp"
#include "kto/text/tokenizer/class_spec.hpp"
#include "kto/text/tokenizer/sentence_piece.hpp"
#include "kto/text/tokenizer/sentence_piece_spec.hpp"
#include "kto/text/tokenizer/special_tokens.hpp"
#include "kto/text/tokenizer/tokenizer_class.hpp"
#include "kto/text/tokenizer/vocabulary_files.hpp"

namespace kto {

struct TokenizerConfig {
  std::string tokenizer_class;           ///< the class that transformers would load
  Json special_tokens = Json::object();  ///< {"bos_token": "<s>", ...}: what transformers passes to chat templates
  std::map<std::string, std::string> chat_templates;  ///< "default" and others, such as "tool_use"

  /// "bos_token", "eos_token", "pad_token", "unk_token", ...; empty if the model has none.
  std::optional<std::string> special_token(const std::string& name) const {
    const auto found = special_tokens.find(name);
    return found == special_tokens.end() ? std::nullopt : std::optional(found->get<std::string>());
  }

  /// The template for conversations; empty if the model has none. Throws Error if it has several and no default.
  std::optional<std::string> chat_template() const {
    if (chat_templates.empty()) return std::nullopt;
    if (const auto found = chat_templates.find("default"); found != chat_templates.end()) return found->second;
    std::string names;
    for (const auto& entry : chat_templates) names += " \"" + entry.first + "\"";
    fail("the model has several chat templates, but none is the default:", names);
  }
};

struct LoadedTokenizer {
  Tokenizer tokenizer;
  TokenizerConfig config;
};

/// The files of a model folder for its tokenizer, chat templates (except those in additional_chat_templates/) and, in a
/// multimodal model, processor.
inline constexpr std::array tokenizer_file_names{"tokenizer.json",
                                                 "tokenizer_config.json",
                                                 "special_tokens_map.json",
                                                 "added_tokens.json",
                                                 "vocab.json",
                                                 "merges.txt",
                                                 "vocab.txt",
                                                 "tokenizer.model",
                                                 "spiece.model",
                                                 "sentencepiece.bpe.model",
                                                 "spm.model",
                                                 "tekken.json",
                                                 "chat_template.jinja",
                                                 "chat_template.json",
                                                 "processor_config.json",
                                                 "preprocessor_config.json",
                                                 "video_preprocessor_config.json"};

/// The files to copy into a trained model's folder so that its tokenizer loads. Relative paths.
inline std::vector<fs::path> tokenizer_files(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const char* name : tokenizer_file_names)
    if (fs::is_regular_file(folder / name)) files.emplace_back(name);
  const fs::path templates = "additional_chat_templates";
  if (fs::is_directory(folder / templates))
    for (const auto& entry : fs::directory_iterator(folder / templates))
      if (entry.path().extension() == ".jinja") files.push_back(templates / entry.path().filename());
  std::ranges::sort(files);
  return files;
}

class TokenizerLoader {
 public:
  explicit TokenizerLoader(const fs::path& folder)
      : folder_(folder),
        where_((folder / "tokenizer_config.json").string()),
        config_(object_from("tokenizer_config.json")) {}

  LoadedTokenizer load() const {
    const fs::path file = folder_ / "tokenizer.json";
    const bool has_file = fs::exists(file);
    const Json versions = json_value(config_, "fast_tokenizer_files", Json::array({"tokenizer.json"}), where_);
    check(versions == Json::array({"tokenizer.json"}), where_,
          ": versioned tokenizer files (\"fast_tokenizer_files\") ", "are not supported; keep one tokenizer.json");
    auto json = has_file ? tok::read_tokenizer_json(file) : tok::TokenizerJson{};
    const Json model_config = object_from("config.json");
    TokenizerConfig config;
    config.tokenizer_class = tok::resolve_class(config_, model_config, json.mentions_byte_level, where_);
    const tok::ClassRules* rules = tok::class_rules(config.tokenizer_class);
    const fs::path vocabulary = has_file ? file : folder_ / vocabulary_file(config.tokenizer_class);
    std::optional<tok::SentencePieceModel> pieces;
    if (vocabulary.extension() == ".model")
      pieces = tok::read_sentence_piece(vocabulary);
    else if (!has_file)
      json = vocabulary.extension() == ".txt" ? tok::read_vocab_txt(vocabulary) : tok::read_vocab_and_merges(folder_);
    tok::SpecialTokens special(folder_, config_, json.spec, config.tokenizer_class,
                               pieces ? pieces->tokens(rules == nullptr) : tok::PieceTokens{});
    if (pieces)
      json = rules == nullptr ? tok::plain_tokenizer(*pieces, config_, special, where_)
                              : tok::vocabulary_for_class(*pieces, *rules, config_, special, where_);
    for (const auto& [name, token] : special.named) config.special_tokens[name] = token.content;
    config.chat_templates = chat_templates();

    const std::string* unknown = special.text("unk_token");
    Json options = config_;
    if (pieces) options["unk_id"] = pieces->unk_id;
    const bool has_ends = json.spec.contains("post_processor") && !json.spec["post_processor"].is_null();
    tok::apply_class(json, config.tokenizer_class, options, unknown == nullptr ? "<unk>" : *unknown, where_);
    if (json_value(config_, "fix_mistral_regex", false, where_) && json.vocabulary.size() > 100000)
      tok::fix_mistral_pattern(json.spec, model_config, where_);
    Tokenizer tokenizer(std::move(json), vocabulary.string());
    add_special_tokens(tokenizer, special, config.tokenizer_class);
    if (!has_ends || rules == nullptr || rules->name != "AlbertTokenizer")  // it builds its template too early
      surround(tokenizer, special, rules, has_file);
    tokenizer.splits_special_tokens_ = json_value(config_, "split_special_tokens", false, where_);
    tokenizer.cleans_up_spaces_ =
        json_value(config_, "clean_up_tokenization_spaces", false, where_) &&
        (!tokenizer.model_.is_bpe() ||
         json_value(config_, "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", false, where_));
    tokenizer.prepare();
    return {std::move(tokenizer), std::move(config)};
  }

 private:
  Json object_from(const char* name) const { return tok::read_object(folder_ / name); }

  /// The file with the vocabulary of a class in a folder without tokenizer.json.
  std::string vocabulary_file(const std::string& class_name) const {
    check(fs::is_directory(folder_), folder_.string(), ": is not a folder");
    const tok::ClassRules* rules = tok::class_rules(class_name);
    std::string name(rules == nullptr ? "tokenizer.model" : rules->vocabulary);
    if (name.ends_with(".model") && fs::exists(folder_ / "tokenizer.model")) name = "tokenizer.model";
    if (fs::exists(folder_ / name) && (name != "vocab.json" || fs::exists(folder_ / "merges.txt"))) return name;
    for (const char* other : {"tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model", "vocab.json",
                              "tekken.json", "tiktoken.model", "vocab.txt"})
      if (fs::exists(folder_ / other))
        fail(folder_.string(), ": has no tokenizer.json, only ", other, ", which the tokenizer class ", class_name,
             " does not read; name the class in ",
             "tokenizer_config.json (\"tokenizer_class\"), or convert the file in Python: AutoTokenizer",
             ".from_pretrained(folder).save_pretrained(folder)");
    fail(folder_.string(), ": has no tokenizer.json");
  }

  static void add_special_tokens(Tokenizer& tokenizer, const tok::SpecialTokens& special, std::string_view class_name) {
    using tok::AddedToken;
    tokenizer.add_tokens(special.missing_from(tokenizer.added_.by_id()));
    std::vector<AddedToken> again;
    if (class_name == "Qwen2Tokenizer") {  // these two classes add their tokens again, which changes flags
      for (const auto& [name, token] : special.named) again.push_back(AddedToken::special_from(token.content));
      for (const AddedToken& token : special.extra) again.push_back(AddedToken::special_from(token.content));
    } else if (class_name == "CohereTokenizer") {
      for (const auto& [name, token] : special.named) again.push_back(token);
      again.insert(again.end(), special.extra.begin(), special.extra.end());
      for (AddedToken& token : again) token.special = true;
    }
    tokenizer.add_tokens(again);
  }

  /// Sets the special tokens around a text where the class decides on them, or no tokenizer.json does.
  void surround(Tokenizer& tokenizer, const tok::SpecialTokens& special, const tok::ClassRules* rules,
                bool has_file) const {
    const bool is_fixed = rules != nullptr && (!rules->before.empty() || !rules->after.empty());
    const bool is_code = rules != nullptr && rules->name == "CodeLlamaTokenizer";
    if (has_file && !is_fixed && !is_code && (rules == nullptr || rules->name != "GPTNeoXTokenizer")) return;
    const auto id_of = [&](std::string_view name) {
      const std::string* text = special.text(name);
      return text == nullptr ? std::nullopt : tokenizer.id(*text);
    };
    std::vector<std::int32_t> before, after;
    const auto add = [&](std::vector<std::int32_t>& ids, const std::vector<std::string_view>& names) {
      for (const std::string_view name : names) {
        const auto id = id_of(name);
        check(id.has_value(), where_, ": the tokenizer class ", rules->name, " needs a \"", name, "\"");
        ids.push_back(*id);
      }
    };
    if (is_fixed) {
      add(before, rules->before);
      add(after, rules->after);
    } else {  // a tokenizer.json makes transformers forget these two options
      const auto adds = [&](const char* key, bool otherwise) {
        return has_file ? otherwise : json_value(config_, key, otherwise, where_);
      };
      if (const auto id = id_of("bos_token"); id && adds("add_bos_token", is_code)) before.push_back(*id);
      if (const auto id = id_of("eos_token"); id && adds("add_eos_token", false)) after.push_back(*id);
    }
    tokenizer.post_processor_ = tok::PostProcessor::around(std::move(before), after);
  }

  /// Templates in separate files take precedence over those in tokenizer_config.json.
  std::map<std::string, std::string> chat_templates() const {
    std::map<std::string, std::string> templates;
    if (const fs::path file = folder_ / "chat_template.jinja"; fs::exists(file)) templates["default"] = read_file(file);
    if (const fs::path more = folder_ / "additional_chat_templates"; fs::is_directory(more))
      for (const auto& entry : fs::directory_iterator(more))
        if (entry.path().extension() == ".jinja") templates[entry.path().stem().string()] = read_file(entry.path());
    if (!templates.empty()) return templates;
    if (config_.contains("chat_template")) return templates_from(config_["chat_template"], where_);
    const Json processor = object_from("chat_template.json");
    if (processor.contains("chat_template"))
      return templates_from(processor["chat_template"], (folder_ / "chat_template.json").string());
    return {};
  }

  /// "text", {"name": "text"} or [{"name": ..., "template": ...}].
  static std::map<std::string, std::string> templates_from(const Json& value, std::string_view where) {
    if (value.is_null()) return {};
    if (value.is_string()) return {{"default", value.get<std::string>()}};
    std::map<std::string, std::string> templates;
    if (value.is_array()) {
      for (const Json& entry : value)
        templates[tok::json_text(entry, "name", where)] = tok::json_text(entry, "template", where);
      return templates;
    }
    check(value.is_object(), where, ": \"chat_template\" must be text, or a list of named templates");
    for (const auto& entry : value.items()) templates[entry.key()] = tok::json_text(value, entry.key(), where);
    return templates;
  }

  fs::path folder_;
  std::string where_;
  Json config_;
};

/// Loads the tokenizer of a model folder. Python's tokenizer(text)["input_ids"] is tokenizer.encode(text, true) here;
/// for a rendered chat template the second argument is false. Throws Error naming the file and what is malformed,
/// missing or unsupported.
inline LoadedTokenizer load_tokenizer(const fs::path& folder) { return TokenizerLoader(folder).load(); }

}  // namespace kto
