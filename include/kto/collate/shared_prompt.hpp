// SPDX-License-Identifier: Apache-2.0
// Layouts in which tokens that prompts share are there once: a prompt that several rows of a batch have (chosen and
// rejected), the beginning that prompts have in common (a system prompt, examples, a conversation so far), and the
// prompts of the KL pairs, which are those of the batch's rows. The oracle is make_sequences, which lays every (prompt,
// completion) out whole.
#pragma once

#include <algorithm>
#include <iterator>
#include <numeric>
#include <optional>
#include <utility>

#include "kto/collate/sequences.hpp"

namespace kto {

namespace detail {

/// Shorter beginnings are not shared, unless they are whole prompts: a segment more costs attention about as much.
inline constexpr std::size_t least_shared_tokens = 16;

/// Pairs whose prompts begin with the same `length` tokens, or one pair and 0.
struct SharedBeginning {
  std::size_t length;
  std::vector<std::size_t> members;  ///< ascending
};

/// A division of pairs into groups, and how many tokens are not laid out again.
struct Sharing {
  std::vector<SharedBeginning> groups;
  std::size_t saved = 0;
};

/// The division that saves most of `members`, which are in the lexical order of their prompts.
inline Sharing best_sharing(std::span<const TokenPair> pairs, std::span<const std::size_t> members) {
  if (members.size() < 2) return {{{0, {members.begin(), members.end()}}}, 0};
  const auto &first = pairs[members.front()].prompt, &last = pairs[members.back()].prompt;
  const auto length = static_cast<std::size_t>(std::ranges::mismatch(first, last).in1 - first.begin());
  const bool is_whole = length > 0 && length == last.size();
  Sharing together, apart;
  if (is_whole || length >= least_shared_tokens)
    together = {{{length, {members.begin(), members.end()}}}, (members.size() - 1) * length};
  if (is_whole) return together;
  const auto token_after = [&](std::size_t b) {
    return length < pairs[b].prompt.size() ? std::optional(pairs[b].prompt[length]) : std::nullopt;
  };
  for (auto begin = members.begin(); begin != members.end();) {
    const auto differs = [&](std::size_t b) { return last.empty() || token_after(b) != token_after(*begin); };
    const auto end = std::find_if(std::next(begin), members.end(), differs);
    Sharing part = best_sharing(pairs, {begin, end});
    apart.saved += part.saved;
    std::ranges::move(part.groups, std::back_inserter(apart.groups));
    begin = end;
  }
  return together.saved > apart.saved ? together : apart;
}

/// The division of `pairs` that saves most; groups in the order of their first members.
inline std::vector<SharedBeginning> shared_beginnings(std::span<const TokenPair> pairs) {
  std::vector<std::size_t> members(pairs.size());
  std::iota(members.begin(), members.end(), std::size_t{0});
  std::ranges::stable_sort(members, [&](std::size_t a, std::size_t b) {
    return std::ranges::lexicographical_compare(pairs[a].prompt, pairs[b].prompt);
  });
  std::vector<SharedBeginning> out = best_sharing(pairs, members).groups;
  for (SharedBeginning& group : out) std::ranges::sort(group.members);
  std::ranges::sort(out, {}, [](const SharedBeginning& group) { return group.members.front(); });
  return out;
}

/// Where a prompt lies in a row: its first `shared` tokens from `begin` on, the others from `rest` on.
struct PromptPlace {
  std::int64_t begin, shared, rest;

  std::int64_t token(std::int64_t t) const { return t < shared ? begin + t : rest + t - shared; }
};

/// Rows in which tokens that prompts share are there once, and where each pair's prompt lies.
struct SharedRows {
  Sequences rows;
  std::vector<PromptPlace> prompt_B;
};

/// `pairs` as make_sequences lays them out, but with what prompts share once, before the rest of each of its pairs.
/// num_tokens counts it for each of them all the same.
inline SharedRows make_shared_rows(std::span<const TokenPair> pairs) {
  SequenceWriter writer;
  SharedRows out{.rows = {}, .prompt_B = std::vector<PromptPlace>(pairs.size())};
  for (const auto& [length, members] : shared_beginnings(pairs)) {
    const std::int64_t begin = writer.size(), shared = static_cast<std::int64_t>(length);
    writer.put_beginning(pairs[members.front()], shared);
    for (const std::size_t b : members) {
      out.prompt_B[b] = {begin, shared, writer.size()};
      writer.put_pair(b, pairs[b], {begin, shared});
    }
  }
  out.rows = std::move(writer).finish(pairs.size());
  return out;
}

/// The completions of `pairs` alone, each after its prompt in `shared`, whose pairs have the same prompts in the same
/// order.
inline Sequences make_tails(std::span<const TokenPair> pairs, const SharedRows& shared) {
  const auto is_apart = [&](std::size_t b) {
    const std::int64_t length = shared.prompt_B[b].shared;
    return length > 0 && length < static_cast<std::int64_t>(pairs[b].prompt_size());
  };
  bool any_apart = false;
  for (std::size_t b = 0; b < pairs.size(); ++b) any_apart = any_apart || is_apart(b);
  SequenceWriter writer;
  std::vector<std::int64_t> prefix;  // the prompts' tokens in `shared`, one prompt after another
  for (std::size_t b = 0; b < pairs.size(); ++b) {
    const PromptPlace& place = shared.prompt_B[b];
    const auto length = static_cast<std::int64_t>(pairs[b].prompt_size());
    const std::int64_t begin = any_apart ? std::ssize(prefix) : place.token(0);
    for (std::int64_t t = 0; any_apart && t < length; ++t) prefix.push_back(place.token(t));
    writer.put_completion(b, pairs[b], begin, place.token(length - 1), shared.rows.ids_N.size(0));
  }
  Sequences out = std::move(writer).finish(pairs.size());
  if (any_apart) out.prefix_P = at::tensor(at::ArrayRef<std::int64_t>(prefix), at::kLong);
  return out;
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
