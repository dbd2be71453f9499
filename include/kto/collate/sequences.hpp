// SPDX-License-Identifier: Apache-2.0
// Lays (prompt, completion) pairs out as Sequences: the part that the padded and the packed collator share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "kto/collate/concept.hpp"
#include "kto/data/truncation.hpp"

namespace kto {

namespace detail {

inline Tensor int64_tensor(const std::vector<std::int64_t>& values) {
  return at::tensor(at::ArrayRef<std::int64_t>(values), at::kLong);
}

}  // namespace detail

/// One row of tokens from `pairs`, in order; the completion tokens are scored (but never a sequence's first token:
/// nothing predicts it). Every segment is then filled up with `pad_id` to `padded_length` tokens; 0 leaves it as it is
/// (packed).
inline Sequences make_sequences(std::span<const TokenPair> pairs, std::int64_t padded_length = 0,
                                std::int64_t pad_id = 0) {
  Sequences out;
  std::vector<std::int64_t> ids, positions, predict, target, row;
  for (std::size_t b = 0; b < pairs.size(); ++b) {
    const auto begin = static_cast<std::int64_t>(ids.size());
    pairs[b].append_prompt(ids);
    const auto prompt_length = static_cast<std::int64_t>(ids.size()) - begin;
    pairs[b].append_completion(ids);
    const auto length = static_cast<std::int64_t>(ids.size()) - begin;
    for (std::int64_t t = std::max<std::int64_t>(prompt_length, 1); t < length; ++t) {
      predict.push_back(begin + t - 1);
      target.push_back(ids[static_cast<std::size_t>(begin + t)]);
      row.push_back(static_cast<std::int64_t>(b));
    }
    const auto segment_length = std::max(length, padded_length);
    ids.resize(static_cast<std::size_t>(begin + segment_length), pad_id);
    for (std::int64_t t = 0; t < segment_length; ++t) positions.push_back(t);
    out.segments.push_back({.begin = begin, .length = segment_length});
    out.lengths.push_back(length);
    out.num_tokens += length;
  }
  if (!ids.empty()) out.max_id = *std::ranges::max_element(ids);
  out.num_rows = static_cast<std::int64_t>(pairs.size());
  out.ids_N = detail::int64_tensor(ids);
  out.position_N = detail::int64_tensor(positions);
  out.predict_C = detail::int64_tensor(predict);
  out.target_C = detail::int64_tensor(target);
  out.row_C = detail::int64_tensor(row);
  return out;
}

/// What `truncation` keeps of the matched pairs of `picks`, and of the mismatched ones: each prompt with its partner's
/// completion.
inline std::vector<TokenPair> matched_pairs(std::span<const Pick> picks, const Truncation& truncation) {
  std::vector<TokenPair> pairs;
  for (const Pick& pick : picks) pairs.push_back(truncation({pick.example->prompt_ids, pick.example->completion_ids}));
  return pairs;
}
inline std::vector<TokenPair> mismatched_pairs(std::span<const Pick> picks, const Truncation& truncation) {
  std::vector<TokenPair> pairs;
  for (const Pick& pick : picks)
    pairs.push_back(truncation.mismatched({pick.example->prompt_ids, pick.example->completion_ids},
                                          pick.kl_partner->completion_ids));
  return pairs;
}

namespace detail {

/// A Batch from `picks`; `layout(pairs)` makes the Sequences.
template <class Layout>
Batch make_batch(std::span<const Pick> picks, bool with_kl, const Truncation& truncation, const Layout& layout) {
  Batch batch;
  batch.rows = layout(matched_pairs(picks, truncation));
  if (with_kl) batch.kl_rows = layout(mismatched_pairs(picks, truncation));
  std::vector<double> sign;
  for (const Pick& pick : picks) {
    sign.push_back(pick.example->label ? 1 : -1);
    batch.num_chosen += pick.example->label ? 1 : 0;
  }
  batch.sign_B = at::tensor(at::ArrayRef<double>(sign), at::kDouble);
  batch.picks.assign(picks.begin(), picks.end());
  return batch;
}

}  // namespace detail

}  // namespace kto
