// SPDX-License-Identifier: Apache-2.0
// What is kept of a prompt and a completion that are too long together. Applied to each (prompt, completion) when a
// batch is made, for a KL pair has another completion after its prompt.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "kto/core/error.hpp"
#include "kto/data/example.hpp"

namespace kto {

/// A prompt and the completion that follows it; either may belong to another row.
struct TokenPair {
  std::span<const std::int32_t> prompt;
  std::span<const std::int32_t> completion;
};

/// Which end of a prompt that is cut is kept.
enum class TruncationMode { keep_end, keep_start };

/// KTOTrainer's older rule: prompts and completions are cut each by themselves.
struct PartTruncation {
  TruncationMode mode = TruncationMode::keep_end;
  std::int64_t max_prompt_length = 512;                              ///< tokens of a prompt that has to be cut
  std::optional<std::int64_t> max_completion_length = std::nullopt;  ///< tokens of any completion
};

/// How rows are cut. Without `parts` as TRL 1.16 does it: everything after max_length tokens is left out, and
/// encode_rows drops rows whose prompt fills it. With `parts`: a completion is cut to max_completion_length; where
/// prompt and completion are then longer than max_length, the prompt is cut to max_prompt_length (and to max_length -
/// 1, so that one completion token is left), and if they are still too long, the completion to what is left.
struct Truncation {
  std::optional<std::int64_t> max_length = 1024;  ///< tokens of prompt and completion
  std::optional<PartTruncation> parts = std::nullopt;

  /// The tokens of `pair` that are kept.
  TokenPair operator()(TokenPair pair) const {
    if (!parts) {
      if (!max_length) return pair;
      const auto limit = static_cast<std::size_t>(*max_length);
      pair.prompt = pair.prompt.first(std::min(pair.prompt.size(), limit));
      pair.completion = pair.completion.first(std::min(pair.completion.size(), limit - pair.prompt.size()));
      return pair;
    }
    if (parts->max_completion_length)
      pair.completion = pair.completion.first(
          std::min(pair.completion.size(), static_cast<std::size_t>(*parts->max_completion_length)));
    if (!max_length || pair.prompt.size() + pair.completion.size() <= static_cast<std::size_t>(*max_length))
      return pair;
    const auto kept =
        std::min(pair.prompt.size(), static_cast<std::size_t>(std::min(parts->max_prompt_length, *max_length - 1)));
    pair.prompt = parts->mode == TruncationMode::keep_end ? pair.prompt.last(kept) : pair.prompt.first(kept);
    pair.completion =
        pair.completion.first(std::min(pair.completion.size(), static_cast<std::size_t>(*max_length) - kept));
    return pair;
  }

  /// In words, for the key of a cache: two that cut differently differ.
  std::string describe() const {
    const auto number = [](std::optional<std::int64_t> n) { return n ? std::to_string(*n) : "none"; };
    if (!parts) return "max_length " + number(max_length);
    return concat("max_length ", number(max_length), ", prompt ", parts->max_prompt_length, ", completion ",
                  number(parts->max_completion_length),
                  parts->mode == TruncationMode::keep_end ? ", keep_end" : ", keep_start");
  }
};

/// Throws UsageError when a rule would leave a row without prompt or completion tokens.
inline void check_truncation(const Truncation& rule) {
  const auto require = [](bool holds, const auto&... parts) {
    if (!holds) throw UsageError(concat(parts...));
  };
  require(rule.max_length.value_or(2) >= 2, "max_length is ", rule.max_length.value_or(0), "; expected 2 or more");
  if (!rule.parts) return;
  require(rule.parts->max_prompt_length >= 1, "max_prompt_length is ", rule.parts->max_prompt_length,
          "; expected 1 or more");
  require(rule.parts->max_completion_length.value_or(1) >= 1, "max_completion_length is ",
          rule.parts->max_completion_length.value_or(0), "; expected 1 or more");
}

/// What to know of `rows` under `rule`: how many prompts and completions are cut. Empty when none is.
inline std::string truncation_note(std::span<const Example> rows, const Truncation& rule) {
  std::size_t prompts = 0, completions = 0;
  for (const Example& row : rows) {
    const TokenPair kept = rule({row.prompt_ids, row.completion_ids});
    prompts += kept.prompt.size() < row.prompt_ids.size() ? 1 : 0;
    completions += kept.completion.size() < row.completion_ids.size() ? 1 : 0;
  }
  if (prompts + completions == 0) return "";
  return concat("of ", rows.size(), " rows ", prompts, " prompts and ", completions, " completions are cut (",
                rule.describe(), ")");
}

}  // namespace kto
