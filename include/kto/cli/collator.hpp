// SPDX-License-Identifier: Apache-2.0
// The collator of train_kto.
#pragma once

#include <span>

#include "kto/cli/script_config.hpp"
#include "kto/collate/encoder_decoder.hpp"
#include "kto/collate/packed.hpp"
#include "kto/collate/padded.hpp"

namespace kto::cli {

/// Packed or padded, chosen at run time: half as many trainers to compile.
struct RuntimeCollator {
  static constexpr BatchParts provides{.kl_pairs = true};
  bool padded = false;
  bool share_prompt = true;
  Truncation truncation = {};
  std::int64_t pad_id = 0;
  std::int64_t pad_to_multiple_of = 1;
  std::optional<EncoderDecoderCollator> of_encoder_decoder = std::nullopt;  ///< used in place of the two others
  std::int64_t num_tokens(const Example& row) const {                       // of packed rows: see validate(Arguments)
    return PackedCollator{.max_length = truncation.max_length, .parts = truncation.parts}.num_tokens(row);
  }
  Batch operator()(std::span<const Pick> picks, bool with_kl) const {
    if (of_encoder_decoder) return (*of_encoder_decoder)(picks, with_kl);
    const auto& [max_length, parts] = truncation;
    return padded
               ? PaddedCollator{.max_length = max_length,
                                .parts = parts,
                                .pad_id = pad_id,
                                .pad_to_multiple_of = pad_to_multiple_of}(picks, with_kl)
               : PackedCollator{.max_length = max_length, .parts = parts, .share_prompt = share_prompt}(picks, with_kl);
  }
};

/// What the tokenizer's padding is, as an id; 0 where it has none: padding is never looked at.
inline std::int64_t pad_id(const ScriptConfig& script, const NamedTokens& tokens) {
  if (script.collator != CollatorType::padded) return 0;
  return script.padding_value.value_or(tokens.pad ? tokens.pad->id : 0);
}

inline RuntimeCollator make_collator(const ScriptConfig& script, const NamedTokens& tokens) {
  return {.padded = script.collator == CollatorType::padded,
          .share_prompt = script.share_prompt,
          .truncation = truncation_of(script, tokens),
          .pad_id = pad_id(script, tokens),
          .pad_to_multiple_of = script.pad_to_multiple_of.value_or(1)};
}

}  // namespace kto::cli
