// SPDX-License-Identifier: Apache-2.0
// Aligns the special tokens in config.json, generation_config.json and tokenizer_config.json with the tokenizer that a
// model is trained with, as transformers' Trainer (5.24) and TRL's KTOTrainer do. Otherwise generate() may run past the
// token that ends every trained completion.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <string>

#include "kto/io/json.hpp"
#include "kto/model/model_files.hpp"
#include "kto/model/multimodal.hpp"
#include "kto/text/named_tokens.hpp"

namespace kto {

/// The files of a model folder that name special tokens.
struct TokenConfigs {
  Json config = Json::object();            ///< config.json; of a multimodal model, text_config
  Json generation = Json::object();        ///< generation_config.json, or transformers' substitute if it is missing
  Json tokenizer_config = Json::object();  ///< tokenizer_config.json
};

inline TokenConfigs read_token_configs(const ModelFiles& files) {
  const auto read = [&](const char* name) { return files.has(name) ? files.object(name) : Json(Json::object()); };
  Json whole = read("config.json");
  TokenConfigs out{
      .config = decoder_config(whole), .generation = {}, .tokenizer_config = read("tokenizer_config.json")};
  if (files.has("generation_config.json")) {
    out.generation = read("generation_config.json");
    return out;
  }
  out.generation = {{"_from_model_config", true}};
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id",
                          "forced_bos_token_id", "forced_eos_token_id"})
    for (const Json* config : {&out.config, &whole})  // those of the whole take precedence
      if (const auto id = config->find(key); id != config->end() && !id->is_null()) out.generation[key] = *id;
  return out;
}

namespace detail {

/// `object[key]`, or null.
inline Json value_or_null(const Json& object, const std::string& key) {
  const auto found = object.find(key);
  return found == object.end() ? Json() : *found;
}

/// Defaults for keys missing in config.json.
inline Json class_token_id(const Json& config, const std::string& key) {
  const Json type = value_or_null(config, "model_type");
  if (type != "llama" && type != "mistral") return nullptr;
  return key == "bos_token_id" ? Json(1) : key == "eos_token_id" ? Json(2) : Json();
}

/// Sets an id. If several ids are allowed (`several`), adds to the list, since the ids in the file may be right, too.
inline void align_token(TokenConfigs& configs, const std::string& key, const std::optional<NamedToken>& token,
                        bool several) {
  if (!token) return;
  const Json id = token->id, config = value_or_null(configs.config, key),
             generation = value_or_null(configs.generation, key);
  const auto holds = [&](const Json& ids) {
    return ids == id || (ids.is_array() && std::find(ids.begin(), ids.end(), id) != ids.end());
  };
  if (holds(config) && holds(generation)) return;
  const auto before = [&](const Json& ids) {
    Json out = Json::array({id});
    for (const Json& other : ids.is_array() ? ids : Json::array({ids}))
      if (!other.is_null() && other != id) out.push_back(other);
    return out;
  };
  configs.config[key] = several && config.is_array() ? before(config) : id;
  configs.generation[key] = several ? before(generation) : id;
}

}  // namespace detail

/// Writes the ids of `tokens` into the configs, and the pad token's text if tokenizer_config.json has none. Tokens that
/// the tokenizer does not name stay unchanged.
inline void align_special_tokens(TokenConfigs& configs, const NamedTokens& tokens) {
  for (const char* key : {"bos_token_id", "eos_token_id"})
    if (const Json id = detail::class_token_id(configs.config, key); !configs.config.contains(key) && !id.is_null())
      configs.config[key] = id;
  if (tokens.pad) configs.config["pad_token_id"] = configs.generation["pad_token_id"] = tokens.pad->id;
  detail::align_token(configs, "eos_token_id", tokens.eos, /*several=*/true);
  detail::align_token(configs, "bos_token_id", tokens.bos, /*several=*/false);
  if (tokens.pad && detail::value_or_null(configs.tokenizer_config, "pad_token").is_null())
    configs.tokenizer_config["pad_token"] = tokens.pad->text;
}

/// The aligned configs of a folder.
inline TokenConfigs aligned_configs(const ModelFiles& files, const NamedTokens& tokens) {
  TokenConfigs configs = read_token_configs(files);
  if (tokens.any()) align_special_tokens(configs, tokens);
  return configs;
}

/// Describes what aligning changes in `files`; empty if nothing. For an adapter, only the tokenizer's files count.
inline std::string alignment_note(const ModelFiles& files, const NamedTokens& tokens, bool is_adapter) {
  const TokenConfigs old = read_token_configs(files), now = aligned_configs(files, tokens);
  std::string out;
  const auto compare = [&](const char* file, const Json& before, const Json& after,
                           std::initializer_list<const char*> keys) {
    std::string changes;
    for (const char* key : keys) {
      const Json was = before.contains(key) ? before[key] : detail::class_token_id(before, key);
      const Json is = detail::value_or_null(after, key);
      if (was != is) changes += concat(changes.empty() ? " " : ", ", key, ' ', is.dump(), " (was ", was.dump(), ')');
    }
    if (!changes.empty()) out += concat(out.empty() ? "" : "; ", file, changes);
  };
  const auto ids = {"eos_token_id", "bos_token_id", "pad_token_id"};
  if (!is_adapter) {
    compare("config.json", old.config, now.config, ids);
    compare("generation_config.json", old.generation, now.generation, ids);
  }
  if (tokens.pad_is_eos) compare("tokenizer_config.json", old.tokenizer_config, now.tokenizer_config, {"pad_token"});
  return out.empty() ? out : "saved with the special tokens of the tokenizer: " + out;
}

}  // namespace kto
