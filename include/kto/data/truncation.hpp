// SPDX-License-Identifier: Apache-2.0
// Truncation of a prompt and a completion that are too long together. Applied to each (prompt, completion) when a batch
// is made, because in a KL pair a prompt is followed by another completion.
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
  std::span<const std::int32_t> prompt;            ///< ids, without bos
  std::span<const std::int32_t> completion;        ///< ids, without eos
  std::optional<std::int32_t> bos = std::nullopt;  ///< precedes the prompt and is part of it
  std::optional<std::int32_t> eos = std::nullopt;  ///< follows the completion and is part of it

  /// Tokens, bos included.
  std::size_t prompt_size() const { return prompt.size() + (bos ? 1 : 0); }
  /// Tokens, eos included.
  std::size_t completion_size() const { return completion.size() + (eos ? 1 : 0); }
  /// Tokens of both.
  std::size_t size() const { return prompt_size() + completion_size(); }
  /// Appends the prompt's ids to `ids`.
  void append_prompt(auto& ids) const {
    if (bos) ids.push_back(*bos);
    ids.insert(ids.end(), prompt.begin(), prompt.end());
  }
  /// Appends the completion's ids to `ids`.
  void append_completion(auto& ids) const {
    ids.insert(ids.end(), completion.begin(), completion.end());
    if (eos) ids.push_back(*eos);
  }
};

/// Which end of a truncated prompt is kept.
enum class TruncationMode { keep_end, keep_start };

/// KTOTrainer's rule up to TRL 0.22, for rows encoded for it (RowEncoder::older). Every prompt begins with BOS, if the
/// tokenizer has one, and every completion ends with EOS; room for those still to be added is reserved within
/// max_length. If prompt and completion are too long, the prompt is truncated to max_prompt_length tokens; if they are
/// still too long, the completion is truncated to max_length - max_prompt_length. If that is negative, it counts from
/// the completion's end, as in Python's slices, and a row may stay longer than max_length. In a KL pair, the whole
/// completion follows the prompt as truncated in its own row, which may then be truncated again.
struct PartTruncation {
  TruncationMode mode = TruncationMode::keep_end;                    ///< which end of the prompt is kept
  std::int64_t max_prompt_length = 512;                              ///< tokens kept of a truncated prompt
  std::optional<std::int64_t> max_completion_length = std::nullopt;  ///< tokens of any completion; not a rule of TRL
  std::optional<std::int32_t> bos_id = std::nullopt;                 ///< none: the tokenizer has no BOS
  std::optional<std::int32_t> eos_id = std::nullopt;                 ///< none: it has no EOS

  /// What is kept of `pair`, for at most `max_length` tokens.
  TokenPair operator()(TokenPair pair, std::optional<std::int64_t> max_length) const {
    const auto cut = [](auto& ids, std::int64_t n) {
      ids = ids.first(std::min(ids.size(), static_cast<std::size_t>(std::max<std::int64_t>(n, 0))));
    };
    const auto begins = [&] { return pair.bos || (!pair.prompt.empty() && pair.prompt.front() == bos_id); };
    const auto ends = [&] { return !pair.completion.empty() && pair.completion.back() == eos_id; };
    if (max_completion_length && static_cast<std::int64_t>(pair.completion.size()) > *max_completion_length)
      cut(pair.completion, *max_completion_length - 1);  // EOS counts
    if (max_length) {
      const std::int64_t limit =
          *max_length - (pair.prompt_size() > 0 && !begins() ? 1 : 0) - (!pair.completion.empty() && !ends() ? 1 : 0);
      const auto size = [&] { return static_cast<std::int64_t>(pair.size()); };
      if (size() > limit && static_cast<std::int64_t>(pair.prompt_size()) > max_prompt_length) {
        if (mode == TruncationMode::keep_start) {
          cut(pair.prompt, max_prompt_length - (pair.bos ? 1 : 0));
        } else {
          pair.bos.reset();
          pair.prompt = pair.prompt.last(static_cast<std::size_t>(max_prompt_length));
        }
      }
      if (size() > limit) {
        const std::int64_t kept = limit - max_prompt_length;
        cut(pair.completion, kept < 0 ? static_cast<std::int64_t>(pair.completion.size()) + kept : kept);
      }
    }
    if (bos_id && !begins()) pair.bos = bos_id;
    if (eos_id && !ends()) pair.eos = eos_id;
    return pair;
  }
};

/// How rows are truncated. Without `parts`, as in TRL 1.16: everything after max_length tokens is dropped, and
/// encode_rows drops rows whose prompt fills max_length.
struct Truncation {
  std::optional<std::int64_t> max_length = 1024;  ///< tokens of prompt and completion
  /// How prompt and completion are cut apart; none: from the right.
  std::optional<PartTruncation> parts = std::nullopt;

  /// The tokens of `pair` that are kept.
  TokenPair operator()(TokenPair pair) const {
    if (parts) return (*parts)(pair, max_length);
    if (!max_length) return pair;
    const auto limit = static_cast<std::size_t>(*max_length);
    pair.prompt = pair.prompt.first(std::min(pair.prompt.size(), limit));
    pair.completion = pair.completion.first(std::min(pair.completion.size(), limit - pair.prompt.size()));
    return pair;
  }

  /// The tokens kept of `row`'s prompt and the completion of another row.
  TokenPair mismatched(TokenPair row, std::span<const std::int32_t> completion) const {
    if (parts) row = (*this)(row);
    row.completion = completion;
    row.eos.reset();
    return (*this)(row);
  }

  /// A description for cache keys: different rules have different descriptions.
  std::string describe() const {
    const auto number = [](auto n) { return n ? std::to_string(*n) : "none"; };
    if (!parts) return "max_length " + number(max_length);
    return concat("max_length ", number(max_length), ", prompt ", parts->max_prompt_length, ", completion ",
                  number(parts->max_completion_length),
                  parts->mode == TruncationMode::keep_end ? ", keep_end" : ", keep_start", ", BOS ",
                  number(parts->bos_id), ", EOS ", number(parts->eos_id));
  }
};

/// Throws UsageError if a rule would leave a row without prompt or completion tokens.
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

/// A note on how many prompts and completions of `rows` are truncated by `rule`; empty if none.
inline std::string truncation_note(std::span<const Example> rows, const Truncation& rule) {
  std::size_t prompts = 0, completions = 0, long_rows = 0;
  for (const Example& row : rows) {
    const TokenPair kept = rule({row.prompt_ids, row.completion_ids});
    prompts += kept.prompt.size() < row.prompt_ids.size() ? 1 : 0;
    completions += kept.completion.size() < row.completion_ids.size() ? 1 : 0;
    long_rows += rule.max_length && kept.size() > static_cast<std::size_t>(*rule.max_length) ? 1 : 0;
  }
  if (prompts + completions == 0) return "";
  std::string out = concat("of ", rows.size(), " rows ", prompts, " prompts and ", completions,
                           " completions are truncated (", rule.describe(), ")");
  if (long_rows > 0)
    out +=
        concat(", and ", long_rows, " stay longer than max_length: max_prompt_length is too close to it, or above it");
  return out;
}

}  // namespace kto
