// SPDX-License-Identifier: Apache-2.0
// The special tokens of a tokenizer that a model's config.json and generation_config.json name by their ids.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace kto {

struct NamedToken {
  std::string text;
  std::int32_t id = 0;
};

struct NamedTokens {
  std::optional<NamedToken> bos = std::nullopt, eos = std::nullopt;
  std::optional<NamedToken> pad = std::nullopt;  ///< eos if the tokenizer names none, as in TRL's trainers
  bool pad_is_eos = false;                       ///< the tokenizer names none

  bool any() const { return bos || eos || pad; }
};

}  // namespace kto
