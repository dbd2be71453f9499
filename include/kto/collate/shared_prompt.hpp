// SPDX-License-Identifier: Apache-2.0
// Layouts in which a prompt is there once for all completions that follow it: those of one batch with the same prompt
// (chosen and rejected), and the completions of the KL pairs, which follow the prompts that the batch's rows hold.
// The oracle is make_sequences, which lays every (prompt, completion) out whole.
#pragma once

#include <algorithm>
#include <utility>

#include "kto/collate/sequences.hpp"

namespace kto {

namespace detail {

/// Writes Sequences token by token.
struct SequenceWriter {
  Sequences out;
  std::vector<std::int64_t> ids, positions, predict, target, row;

  std::int64_t size() const { return static_cast<std::int64_t>(ids.size()); }

  /// A segment of `tokens`, whose first has position `first`, after the prefix that `segment` names.
  void put(std::span<const std::int32_t> tokens, std::int64_t first, Segment segment) {
    segment.begin = size();
    segment.length = static_cast<std::int64_t>(tokens.size());
    if (tokens.empty()) return;
    for (const std::int32_t id : tokens) {
      positions.push_back(first++);
      ids.push_back(id);
    }
    out.segments.push_back(segment);
    out.lengths.push_back(segment.length);
  }
  /// Scores the completion of pair `b`, whose prompt lies at `prompt_begin` and itself at `begin`: each token is
  /// predicted by the one before it, nothing by a first token without a prompt.
  void score(std::size_t b, const TokenPair& kept, std::int64_t prompt_begin, std::int64_t begin) {
    const auto length = static_cast<std::int64_t>(kept.prompt.size());
    const auto size = static_cast<std::int64_t>(kept.completion.size());
    for (std::int64_t t = length == 0 ? 1 : 0; t < size; ++t) {
      predict.push_back(t == 0 ? prompt_begin + length - 1 : begin + t - 1);
      target.push_back(kept.completion[static_cast<std::size_t>(t)]);
      row.push_back(static_cast<std::int64_t>(b));
    }
    out.num_tokens += length + size;
  }
  Sequences finish(std::int64_t num_rows) && {
    if (!ids.empty()) out.max_id = *std::ranges::max_element(ids);
    out.num_rows = num_rows;
    out.ids_N = int64_tensor(ids);
    out.position_N = int64_tensor(positions);
    out.predict_C = int64_tensor(predict);
    out.target_C = int64_tensor(target);
    out.row_C = int64_tensor(row);
    return std::move(out);
  }
};

/// Rows in which a prompt that several pairs have is there once, and where each pair's prompt lies.
struct SharedRows {
  Sequences rows;
  std::vector<std::int64_t> prompt_begin_B;
};

/// `pairs` as make_sequences lays them out, but with each prompt that two or more of them have once, before their
/// completions. num_tokens counts it for each of them all the same.
inline SharedRows make_shared_rows(std::span<const TokenPair> pairs) {
  SequenceWriter writer;
  SharedRows out{.rows = {}, .prompt_begin_B = std::vector<std::int64_t>(pairs.size(), -1)};
  for (std::size_t b = 0; b < pairs.size(); ++b) {
    if (out.prompt_begin_B[b] >= 0) continue;
    const auto same_prompt = [&](const TokenPair& pair) { return std::ranges::equal(pair.prompt, pairs[b].prompt); };
    const bool shared = !pairs[b].prompt.empty() && std::ranges::any_of(pairs.subspan(b + 1), same_prompt);
    const std::int64_t prompt_begin = writer.size();
    const auto prompt = pairs[b].prompt;
    const auto length = static_cast<std::int64_t>(prompt.size());
    if (shared) writer.put(prompt, 0, {});
    for (std::size_t other = b; other < (shared ? pairs.size() : b + 1); ++other) {
      if (!same_prompt(pairs[other])) continue;
      const TokenPair& kept = pairs[other];
      std::int64_t begin = writer.size();
      if (shared) {
        writer.put(kept.completion, length, {.prefix_begin = prompt_begin, .prefix_length = length});
      } else {
        std::vector<std::int32_t> whole(kept.prompt.begin(), kept.prompt.end());
        whole.insert(whole.end(), kept.completion.begin(), kept.completion.end());
        writer.put(whole, 0, {});
        begin += length;
      }
      writer.score(other, kept, prompt_begin, begin);
      out.prompt_begin_B[other] = prompt_begin;
    }
  }
  out.rows = std::move(writer).finish(static_cast<std::int64_t>(pairs.size()));
  return out;
}

/// The completions of `pairs` alone, each after its prompt in `shared`, whose pairs have the same prompts in the same
/// order.
inline Sequences make_tails(std::span<const TokenPair> pairs, const SharedRows& shared) {
  SequenceWriter writer;
  const std::int64_t offset = shared.rows.ids_N.size(0);
  for (std::size_t b = 0; b < pairs.size(); ++b) {
    const TokenPair& kept = pairs[b];
    const auto length = static_cast<std::int64_t>(kept.prompt.size());
    const std::int64_t begin = offset + writer.size(), prompt_begin = shared.prompt_begin_B[b];
    writer.put(kept.completion, length, {.prefix_begin = prompt_begin, .prefix_length = length});
    writer.score(b, kept, prompt_begin, begin);
  }
  return std::move(writer).finish(static_cast<std::int64_t>(pairs.size()));
}

}  // namespace detail

/// The rows of `picks`, and the completions of their KL pairs where `with_kl`, cut at `max_length`.
inline SharedPrompts make_shared_prompts(std::span<const Pick> picks, std::optional<std::int64_t> max_length,
                                         bool with_kl) {
  const Truncation truncation{max_length};
  detail::SharedRows shared = detail::make_shared_rows(matched_pairs(picks, truncation));
  SharedPrompts out;
  if (with_kl) out.kl_tails = detail::make_tails(mismatched_pairs(picks, truncation), shared);
  out.rows = std::move(shared.rows);
  return out;
}

}  // namespace kto
