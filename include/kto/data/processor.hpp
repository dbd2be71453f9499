// SPDX-License-Identifier: Apache-2.0
// The tokenizer and chat template of a model folder, combined for encoding rows.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "kto/data/encode.hpp"
#include "kto/text/chat_template.hpp"
#include "kto/text/named_tokens.hpp"
#include "kto/text/tokenizer_config.hpp"

namespace kto {

/// The tokenizer and chat template of a folder. The encoder refers to it: keep it alive and do not move it.
class Processor {
 public:
  /// Reads the tokenizer files of `folder`. Throws Error naming the file and what is wrong with it. An unusable chat
  /// template is an Error only when a conversation needs it.
  explicit Processor(const fs::path& folder) : text_(load_tokenizer(folder)) {
    Json& special = text_.config.special_tokens;
    pad_is_eos_ = !special.contains("pad_token") && special.contains("eos_token");
    if (pad_is_eos_) special["pad_token"] = special["eos_token"].get<std::string>();  // as TRL's trainers do
    const std::string name = folder.string() + ": chat template";
    try {
      if (auto source = text_.config.chat_template()) chat_template_.emplace(*std::move(source), name);
    } catch (const Error& error) {
      no_template_ = error.what();
    }
    if (text_.config.chat_templates.contains("tool_use"))
      tool_template_.emplace(text_.config.chat_templates.at("tool_use"), name + " for tools");
  }
  Processor(const Processor&) = delete;
  Processor& operator=(const Processor&) = delete;

  /// The folder's tokenizer.
  const Tokenizer& tokenizer() const { return text_.tokenizer; }
  /// Its settings and special tokens.
  const TokenizerConfig& config() const { return text_.config; }

  /// The special tokens that a model's configs name.
  NamedTokens named_tokens() const {
    const auto named = [&](const char* name) -> std::optional<NamedToken> {
      const auto text = text_.config.special_token(name);
      const auto id = text ? text_.tokenizer.id(*text) : std::nullopt;
      return id ? std::optional(NamedToken{*text, *id}) : std::nullopt;
    };
    return {.bos = named("bos_token"), .eos = named("eos_token"), .pad = named("pad_token"), .pad_is_eos = pad_is_eos_};
  }

  /// What makes token ids of rows. Refers to this processor.
  RowEncoder<Tokenizer, ChatTemplate> encoder() const {
    return {.tokenizer = text_.tokenizer,
            .chat_template = chat_template_ ? &*chat_template_ : nullptr,
            .tool_template = tool_template_ ? &*tool_template_ : nullptr,
            .special_tokens = text_.config.special_tokens,
            .no_template = no_template_};
  }

 private:
  LoadedTokenizer text_;
  bool pad_is_eos_ = false;
  std::optional<ChatTemplate> chat_template_;
  std::optional<ChatTemplate> tool_template_;
  std::string no_template_ = no_chat_template;
};

}  // namespace kto
