// SPDX-License-Identifier: Apache-2.0
// Batches for encoder-decoder models: the encoder reads each distinct prompt of a micro-batch once, without padding; the
// decoder reads each completion behind the start token, and all of its tokens are scored.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "kto/collate/sequences.hpp"

namespace kto {

namespace detail {

/// The completions of `pairs` as the decoder reads them; `prompts[b]` is where the prompt of pair b is. What is written
/// here stands behind `offset` tokens.
inline Sequences make_decoder_sequences(std::span<const TokenPair> pairs, const std::vector<KeyRange>& prompts,
                                        std::int64_t start_token_id, std::int64_t offset = 0) {
  std::vector<std::int64_t> ids, positions, predict, target, row;
  Sequences out;
  for (std::size_t b = 0; b < pairs.size(); ++b) {
    const auto begin = static_cast<std::int64_t>(ids.size());
    std::vector<std::int64_t> completion;
    pairs[b].append_completion(completion);
    for (std::size_t t = 0; t < completion.size(); ++t) {
      ids.push_back(t == 0 ? start_token_id : completion[t - 1]);
      positions.push_back(static_cast<std::int64_t>(t));
      predict.push_back(offset + begin + static_cast<std::int64_t>(t));
      target.push_back(completion[t]);
      row.push_back(static_cast<std::int64_t>(b));
      out.max_id = std::max({out.max_id, ids.back(), completion[t]});
    }
    out.num_tokens += static_cast<std::int64_t>(pairs[b].size());
    if (completion.empty()) continue;
    out.segments.push_back({.begin = begin, .length = static_cast<std::int64_t>(completion.size())});
    out.lengths.push_back(out.segments.back().length);
    out.prompts.push_back(prompts[b]);
  }
  const auto tensor = [](const std::vector<std::int64_t>& values) {
    return at::tensor(at::ArrayRef<std::int64_t>(values), at::kLong);
  };
  out.num_rows = static_cast<std::int64_t>(pairs.size());
  out.ids_N = tensor(ids);
  out.position_N = tensor(positions);
  out.predict_C = tensor(predict);
  out.target_C = tensor(target);
  out.row_C = tensor(row);
  return out;
}

/// The distinct prompts of `pairs`, and where that of each pair is among their tokens.
struct EncoderRow {
  Sequences row;
  std::vector<KeyRange> prompts;
};

inline EncoderRow make_encoder_row(std::span<const TokenPair> pairs) {
  SequenceWriter writer;
  EncoderRow out;
  for (std::size_t b = 0; b < pairs.size(); ++b) {
    check(pairs[b].prompt_size() > 0, "a row has no prompt tokens for the encoder to read");
    std::size_t first = 0;
    while (!std::ranges::equal(pairs[first].prompt, pairs[b].prompt)) ++first;
    if (first < b) {
      out.prompts.push_back(out.prompts[first]);
      continue;
    }
    out.prompts.push_back({writer.size(), static_cast<std::int64_t>(pairs[b].prompt_size())});
    writer.put_beginning(pairs[b], out.prompts.back().length);
  }
  out.row = std::move(writer).finish(pairs.size());
  return out;
}

}  // namespace detail

/// What an encoder-decoder model reads of `pairs`.
inline Sequences make_encoder_decoder_sequences(std::span<const TokenPair> pairs, std::int64_t start_token_id) {
  auto [row, prompts] = detail::make_encoder_row(pairs);
  Sequences out = detail::make_decoder_sequences(pairs, prompts, start_token_id);
  out.max_id = std::max(out.max_id, row.max_id);
  out.encoder.push_back(std::move(row));
  return out;
}

/// Use it with encoder-decoder models. Rows come as they are to be read: nothing is cut here (see
/// SeparateTruncation).
struct EncoderDecoderCollator {
  static constexpr BatchParts provides{.kl_pairs = true};
  std::int64_t start_token_id = 0;  ///< EncoderSpec::start_token_id

  /// The tokens that both stacks read of a row of its own.
  std::int64_t num_tokens(const Example& row) const {
    return static_cast<std::int64_t>(row.prompt_ids.size() + row.completion_ids.size());
  }

  Batch operator()(std::span<const Pick> picks, bool with_kl) const {
    const Truncation whole{.max_length = std::nullopt};
    Batch batch = detail::make_batch(picks, with_kl, whole, [&](const std::vector<TokenPair>& pairs) {
      return make_encoder_decoder_sequences(pairs, start_token_id);
    });
    batch.shared = SharedPrompts{.rows = batch.rows, .kl_tails = {}};
    if (!with_kl) return batch;
    const std::vector<TokenPair> pairs = mismatched_pairs(picks, whole);
    batch.shared->kl_tails = detail::make_decoder_sequences(pairs, detail::make_encoder_row(pairs).prompts,
                                                            start_token_id, batch.rows.ids_N.size(0));
    return batch;
  }
};

}  // namespace kto
