// SPDX-License-Identifier: Apache-2.0
// Lays (prompt, completion) pairs out as Sequences: the part that the padded and the packed collator share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <span>
#include <vector>

#include "kto/collate/concept.hpp"
#include "kto/data/truncation.hpp"

namespace kto {

namespace detail {

/// What a segment is filled up to.
struct SegmentPadding {
  std::int64_t length = 0, pad_id = 0;
};

/// Writes Sequences segment by segment. Completion tokens are scored, but never a sequence's first token: nothing
/// predicts it.
class SequenceWriter {
 public:
  std::int64_t size() const { return static_cast<std::int64_t>(ids_.size()); }

  /// Pair `row` as a segment after those tokens of its prompt that are at `shared` already.
  void put_pair(std::size_t row, const TokenPair& pair, const KeyRange& shared = {},
                const SegmentPadding& padding = {}) {
    const std::int64_t begin = size(), prompt_rest = static_cast<std::int64_t>(pair.prompt_size()) - shared.length;
    pair.append_prompt(ids_);
    ids_.erase(ids_.begin() + begin, ids_.begin() + begin + shared.length);
    pair.append_completion(ids_);
    const std::int64_t length = size() - begin;
    ids_.resize(static_cast<std::size_t>(begin + std::max(length, padding.length)), padding.pad_id);
    put_segment(
        {.begin = begin, .length = size() - begin, .prefix_begin = shared.begin, .prefix_length = shared.length},
        length);
    const std::int64_t completion = begin + prompt_rest;
    score(row, pair, prompt_rest > 0 ? completion - 1 : shared.begin + shared.length - 1, completion);
  }
  /// The first `length` tokens of the prompt of `pair` as a segment, for others to follow.
  void put_beginning(const TokenPair& pair, std::int64_t length) {
    const std::int64_t begin = size();
    pair.append_prompt(ids_);
    ids_.resize(static_cast<std::size_t>(begin + length));
    put_segment({.begin = begin, .length = length}, length);
  }
  /// The completion of pair `row` as a segment after its prompt, which begins at `prefix_begin` among the tokens that
  /// prefixes are of. Its last token is `last`, and what is written here stands behind `offset` tokens.
  void put_completion(std::size_t row, const TokenPair& pair, std::int64_t prefix_begin, std::int64_t last,
                      std::int64_t offset) {
    const std::int64_t begin = size();
    pair.append_completion(ids_);
    put_segment({.begin = begin,
                 .length = size() - begin,
                 .prefix_begin = prefix_begin,
                 .prefix_length = static_cast<std::int64_t>(pair.prompt_size())},
                size() - begin);
    score(row, pair, last, offset + begin);
  }

  Sequences finish(std::size_t num_rows) && {
    const auto tensor = [](const std::vector<std::int64_t>& values) {
      return at::tensor(at::ArrayRef<std::int64_t>(values), at::kLong);
    };
    if (!ids_.empty()) out_.max_id = *std::ranges::max_element(ids_);
    out_.num_rows = static_cast<std::int64_t>(num_rows);
    out_.ids_N = tensor(ids_);
    out_.position_N = tensor(positions_);
    out_.predict_C = tensor(predict_);
    out_.target_C = tensor(target_);
    out_.row_C = tensor(row_);
    return std::move(out_);
  }

 private:
  /// The tokens from segment.begin on; the first `length` of them are real.
  void put_segment(Segment segment, std::int64_t length) {
    if (segment.length == 0) return;
    for (std::int64_t t = 0; t < segment.length; ++t) positions_.push_back(segment.prefix_length + t);
    out_.segments.push_back(segment);
    out_.lengths.push_back(length);
  }
  /// Scores the completion of pair `row`, which begins at `begin` and is predicted from token `before` on.
  void score(std::size_t row, const TokenPair& pair, std::int64_t before, std::int64_t begin) {
    std::vector<std::int64_t> completion;
    pair.append_completion(completion);
    for (std::int64_t t = pair.prompt_size() == 0 ? 1 : 0; t < static_cast<std::int64_t>(completion.size()); ++t) {
      predict_.push_back(t == 0 ? before : begin + t - 1);
      target_.push_back(completion[static_cast<std::size_t>(t)]);
      row_.push_back(static_cast<std::int64_t>(row));
    }
    out_.num_tokens += static_cast<std::int64_t>(pair.size());
  }

  Sequences out_;
  std::vector<std::int64_t> ids_, positions_, predict_, target_, row_;
};

/// Notes in `rows` which states matter: those from which scored tokens are predicted, also those of `tails`, which count
/// on from the tokens of `rows`.
inline void note_needed(Sequences& rows, const Sequences* tails = nullptr) {
  std::vector<std::int64_t> needed;
  const std::int64_t num_positions = rows.ids_N.size(0);
  const auto add = [&](const Tensor& predict_C) {
    const std::span all(predict_C.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(predict_C.numel()));
    std::ranges::copy_if(all, std::back_inserter(needed), [&](std::int64_t place) { return place < num_positions; });
  };
  add(rows.predict_C);
  if (tails != nullptr) add(tails->predict_C);
  std::ranges::sort(needed);
  needed.erase(std::ranges::unique(needed).begin(), needed.end());
  if (!needed.empty()) rows.needed_S = at::tensor(at::ArrayRef<std::int64_t>(needed), at::kLong);
}

}  // namespace detail

/// One row of tokens from `pairs`, in order. Every segment is filled up with `pad_id` to `padded_length` tokens; 0
/// leaves it as it is (packed).
inline Sequences make_sequences(std::span<const TokenPair> pairs, std::int64_t padded_length = 0,
                                std::int64_t pad_id = 0) {
  detail::SequenceWriter writer;
  for (std::size_t b = 0; b < pairs.size(); ++b) writer.put_pair(b, pairs[b], {}, {padded_length, pad_id});
  Sequences out = std::move(writer).finish(pairs.size());
  detail::note_needed(out);
  return out;
}

/// What `truncation` keeps of the matched pairs of `picks`, and of the mismatched ones: each prompt with its partner's
/// completion.
inline std::vector<TokenPair> matched_pairs(std::span<const Pick> picks, const Truncation& truncation) {
  std::vector<TokenPair> pairs;
  for (const Pick& pick : picks) pairs.push_back(truncation({pick.example->prompt_ids, pick.example->completion_ids}));
  return pairs;
}
/// What `truncation` keeps of the KL pairs: each prompt with its partner's completion. Needs Pick::kl_partner.
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
