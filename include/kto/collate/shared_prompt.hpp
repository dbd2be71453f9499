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
    const std::int64_t prompt_begin = out.prompt_begin_B[b] = writer.size();
    if (pairs[b].prompt.empty() || std::ranges::none_of(pairs.subspan(b + 1), same_prompt)) {
      writer.put_pair(b, pairs[b]);
      continue;
    }
    writer.put_prompt(pairs[b]);
    for (std::size_t other = b; other < pairs.size(); ++other) {
      if (!same_prompt(pairs[other])) continue;
      writer.put_completion(other, pairs[other], prompt_begin);
      out.prompt_begin_B[other] = prompt_begin;
    }
  }
  out.rows = std::move(writer).finish(pairs.size());
  return out;
}

/// The completions of `pairs` alone, each after its prompt in `shared`, whose pairs have the same prompts in the same
/// order.
inline Sequences make_tails(std::span<const TokenPair> pairs, const SharedRows& shared) {
  SequenceWriter writer;
  const std::int64_t offset = shared.rows.ids_N.size(0);
  for (std::size_t b = 0; b < pairs.size(); ++b) writer.put_completion(b, pairs[b], shared.prompt_begin_B[b], offset);
  return std::move(writer).finish(pairs.size());
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
  detail::note_needed(out.rows, out.kl_tails ? &*out.kl_tails : nullptr);
  return out;
}

}  // namespace kto
