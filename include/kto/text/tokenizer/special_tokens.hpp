// SPDX-License-Identifier: Apache-2.0
// The special tokens of a model folder, collected as in transformers (5.24): from tokenizer_config.json, or the older
// special_tokens_map.json and added_tokens.json, and from the defaults of the tokenizer class.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "kto/core/error.hpp"
#include "kto/io/file.hpp"
#include "kto/io/json.hpp"
#include "kto/text/tokenizer/added_tokens.hpp"
#include "kto/text/tokenizer/class_rules.hpp"
#include "kto/text/tokenizer/step_spec.hpp"
#include "kto/text/tokenizer/tokenizer_class.hpp"

namespace kto::tok {

inline constexpr std::string_view special_token_names[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                                           "pad_token", "cls_token", "mask_token"};

/// The object in a file; an empty one if the file is missing. Throws Error if the file holds something else.
inline Json read_object(const fs::path& path) {
  if (!fs::exists(path)) return Json::object();
  Json object = read_json(path);
  check(object.is_object(), path.string(), ": must hold an object");
  return object;
}

/// T5's sentinels, which stand for masked spans: how many `config` asks for, and the text of one.
inline int num_extra_ids(const Json& config, std::string_view where) {
  const int count = json_value(config, "extra_ids", 100, where);
  check(count >= 0 && count <= 100'000, where, ": \"extra_ids\" is ", count, "; expected 0 to 100000");
  return count;
}
inline std::string extra_id(int number) { return "<extra_id_" + std::to_string(number) + ">"; }

/// Special tokens that a SentencePiece model brings along.
struct PieceTokens {
  Json extra = nullptr;  ///< its control and user-defined pieces, as additional_special_tokens; null without a model
  std::vector<std::pair<std::string, std::string>> named{};  ///< bos_token, ..., unless the folder names others
};

struct SpecialTokens {
  std::vector<std::pair<std::string, AddedToken>> named;  ///< bos_token, ..., then the model's own, such as image_token
  std::vector<AddedToken> extra;                          ///< additional_special_tokens
  std::map<std::int32_t, AddedToken> added;               ///< by their declared id

  /// Collects them. `config` is the object in tokenizer_config.json, `spec` the one in tokenizer.json.
  SpecialTokens(const fs::path& folder, Json config, const Json& spec, std::string_view class_name,
                const PieceTokens& pieces = {})
      : folder_(folder),
        where_((folder / "tokenizer_config.json").string()),
        values_(std::move(config)),
        defaults_(pieces.named) {
    if (const ClassRules* rules = class_rules(class_name)) defaults_ = rules->special_tokens;
    if (!is_filled(extra_key) && values_.contains(additional_key)) {
      values_[extra_key] = values_[additional_key];
      values_.erase(additional_key);
    }
    take_own();
    take_named_extra();
    if (values_.contains("added_tokens_decoder")) {
      read_added_tokens_decoder();
    } else {
      merge_special_tokens_map();
      take_named_extra();
      read_legacy_added(spec);
    }
    if (!pieces.extra.is_null()) values_[additional_key] = pieces.extra;
    take_additional(class_name);
    read_extra();
    read_named(spec, class_name);
  }

  /// The text of a named token; null if the model has none.
  const std::string* text(std::string_view name) const {
    const auto found = std::ranges::find(this->named, name, [](const auto& token) { return token.first; });
    return found == this->named.end() ? nullptr : &found->second.content;
  }

  /// The tokens missing from `there`, in the order in which they get ids.
  std::vector<AddedToken> missing_from(const std::map<std::int32_t, AddedToken>& there) const {
    std::unordered_map<std::string_view, const AddedToken*> by_content;
    for (const auto& [id, token] : there) by_content[token.content] = &token;
    std::unordered_set<std::string> names;
    for (const auto& [name, token] : named) names.insert(token.content);
    std::vector<AddedToken> tokens;
    for (const auto& [id, token] : added) {
      const auto same = by_content.find(token.content);
      if (same == by_content.end() || *same->second != token) tokens.push_back(token);
    }
    std::unordered_set<std::string> known;
    for (const auto& [id, token] : there) known.insert(token.content);
    for (const AddedToken& token : tokens) known.insert(token.content);
    std::set<AddedToken> added_here;
    const auto add_new = [&](const AddedToken& token) {  // if a token is named twice, the later flags win
      if (!known.contains(token.content) && added_here.insert(token).second) tokens.push_back(token);
    };
    for (const auto& [name, token] : named) add_new(token);
    for (const AddedToken& token : extra) add_new(token);
    for (AddedToken& token : tokens) token.special = token.special || names.contains(token.content);
    return tokens;
  }

 private:
  bool is_filled(const char* key) const {
    const auto found = values_.find(key);
    return found != values_.end() && !found->is_null() && !found->empty();
  }

  /// A token given as text or as an object with flags.
  AddedToken token_from(const Json& value, const std::string& name) const {
    if (value.is_string()) return AddedToken::special_from(value.get<std::string>());
    check(value.is_object() && value.contains("content"), where_, ": \"", name,
          "\" must be a token as text or as an object with \"content\", not ", value.dump());
    return AddedToken::from_json(value, where_);
  }

  /// Whether a name is specific to this model, such as image_token.
  static bool is_own(std::string_view name) { return name.ends_with("_token") && !contains(special_token_names, name); }

  /// Collects the tokens with model-specific names.
  void take_own() {
    Json others = Json::object();
    for (const auto& [name, value] : values_.items()) (is_own(name) && value.is_string() ? own_ : others)[name] = value;
    values_ = std::move(others);
  }

  /// extra_special_tokens may also map model-specific names to tokens.
  void take_named_extra() {
    if (!values_.contains(extra_key) || !values_[extra_key].is_object()) return;
    own_.update(values_[extra_key]);
    values_.erase(extra_key);
  }

  /// additional_special_tokens count only if there are no extra ones; a class with names of its own lists their tokens
  /// there.
  void take_additional(std::string_view class_name) {
    if (values_.contains(extra_key)) return;
    Json list = is_filled(additional_key) ? values_[additional_key] : Json::array();
    if (class_name == "T5Tokenizer" && list.dump().find("<extra_id_") == std::string::npos)
      for (int i = 0; i < num_extra_ids(values_, where_); ++i) list.push_back(extra_id(i));
    for (const auto& [name, text] : defaults_)
      if (is_own(name)) list.push_back(json_value(values_, name, Json(text), where_));
    values_[extra_key] = std::move(list);
  }

  void merge_special_tokens_map() {
    Json map = read_object(folder_ / "special_tokens_map.json");
    for (const auto& [key, value] : map.items()) {
      if (key == extra_key && value.is_array()) {
        Json list = is_filled(extra_key) ? values_[extra_key] : Json::array();
        check(list.is_array(), where_, ": \"", extra_key, "\" must be a list or an object, not ", list.dump());
        std::unordered_set<std::string> known;
        for (const Json& token : list) known.insert(token.dump());
        for (const Json& token : value)
          if (Json it = special(token); known.insert(it.dump()).second) list.push_back(std::move(it));
        values_[key] = std::move(list);
      } else {
        values_[key] = key == extra_key ? value : special(value);
      }
    }
  }
  static Json special(Json token) {
    if (token.is_object()) token["special"] = true;
    return token;
  }

  void read_extra() {
    if (!is_filled(extra_key)) return;
    const Json& list = values_[extra_key];
    check(list.is_array(), where_, ": \"", extra_key, "\" must be a list or an object, not ", list.dump());
    for (const Json& value : list) extra.push_back(token_from(value, extra_key));
  }

  void read_added_tokens_decoder() {
    const Json& decoder = values_["added_tokens_decoder"];
    check(decoder.is_object(), where_, ": \"added_tokens_decoder\" must be an object");
    for (const auto& [key, value] : decoder.items()) {
      check(!key.empty() && key.size() <= 9 && key.find_first_not_of("0123456789") == std::string::npos, where_,
            ": \"added_tokens_decoder\": \"", key, "\" is not an id");
      added.insert_or_assign(std::stoi(key), token_from(value, "added_tokens_decoder"));
    }
  }

  void read_legacy_added(const Json& spec) {
    const Json ids = read_object(folder_ / "added_tokens.json");
    std::unordered_set<std::string> special_texts;
    const auto add_text = [&](const Json& token) {
      if (token.is_string())
        special_texts.insert(token.get<std::string>());
      else if (token.is_object() && !token.contains("__type"))  // an object with "__type" is not a token yet
        special_texts.insert(token_from(token, "").content);
    };
    if (!ids.empty() && is_filled(extra_key)) std::ranges::for_each(values_[extra_key], add_text);
    for (const std::string_view name : special_token_names)
      if (const auto found = values_.find(std::string(name)); !ids.empty() && found != values_.end()) add_text(*found);
    for (const auto& [text, id] : ids.items()) {
      const auto number = json_as<std::int32_t>(id);
      check(number.has_value(), (folder_ / "added_tokens.json").string(), ": the id of \"", text, "\" is ", id.dump());
      const bool special = special_texts.contains(text);
      added.insert_or_assign(*number, AddedToken{text, false, false, false, !special, special});
    }
    const std::string where = (folder_ / "tokenizer.json").string();
    if (spec.contains("added_tokens"))
      for (const Json& token : spec["added_tokens"])
        added.insert_or_assign(json_value(token, "id", 0, where), AddedToken::from_json(token, where));
  }

  void read_named(const Json& spec, std::string_view class_name) {
    const bool names_padding =
        class_name == "GPT2Tokenizer" || class_name == "CodeGenTokenizer" ||  // as null
        std::ranges::any_of(defaults_, [](const auto& token) { return token.first == "pad_token"; });
    if (!names_padding && spec.contains("padding") && spec["padding"].is_object())
      defaults_.emplace_back("pad_token", json_value<std::string>(spec["padding"], "pad_token", "", where_));
    for (const std::string_view key : special_token_names) {
      const std::string name(key);
      if (own_.contains(name)) {
        named.emplace_back(name, token_from(own_[name], name));
      } else if (values_.contains(name)) {
        if (values_[name].is_null()) continue;
        AddedToken token = token_from(values_[name], name);
        for (const auto& [id, known] : added)
          if (known.content == token.content) token = known;
        named.emplace_back(name, std::move(token));
      } else {
        for (const auto& [known, text] : defaults_)
          if (known == name && !text.empty()) named.emplace_back(name, AddedToken::special_from(text));
      }
    }
    Json own = Json::object();
    for (const auto& [name, text] : defaults_)
      if (is_own(name)) own[name] = values_.contains(name) ? values_[name] : Json(text);
    for (const auto& [name, value] : values_.items())
      if (is_own(name) && (value.is_string() || value.is_object())) own[name] = value;
    own.update(own_);
    for (const auto& [name, value] : own.items())
      if (!contains(special_token_names, name) && !value.is_null()) named.emplace_back(name, token_from(value, name));
  }

  static constexpr const char* extra_key = "extra_special_tokens";
  static constexpr const char* additional_key = "additional_special_tokens";
  fs::path folder_;
  std::string where_;
  Json values_;
  Json own_ = Json::object();                                  ///< tokens with model-specific names
  std::vector<std::pair<std::string, std::string>> defaults_;  ///< of the class
};

}  // namespace kto::tok
