// SPDX-License-Identifier: Apache-2.0
// What a collator hands to the model: token sequences in one flat row, and which of their tokens are scored.
// Padded and packed batches have the same type: a padded batch is one whose segments are all of the same length.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "kto/collate/parts.hpp"
#include "kto/core/device.hpp"
#include "kto/data/example.hpp"

namespace kto {

// Shapes: N tokens of all sequences in one row, C scored (completion) tokens, S states that matter, P tokens of prefixes, B
// examples.

/// Tokens [begin, begin + length) of the row attend causally to each other and to the earlier tokens
/// [prefix_begin, prefix_begin + prefix_length), a prompt or its beginning that several sequences share (none when 0), to
/// nothing else.
struct Segment {
  std::int64_t begin = 0;          ///< first token in the row
  std::int64_t length = 0;         ///< tokens, padding included
  std::int64_t prefix_begin = 0;   ///< first token that is shared
  std::int64_t prefix_length = 0;  ///< shared tokens; 0: none
  friend bool operator==(const Segment&, const Segment&) = default;
};

/// Tokens [begin, begin + length) of a row.
struct KeyRange {
  std::int64_t begin = 0;   ///< first token in the row
  std::int64_t length = 0;  ///< tokens
  friend bool operator==(const KeyRange&, const KeyRange&) = default;
};

/// A set of token sequences and the tokens of them that are scored. Of an encoder-decoder model they are what its
/// decoder reads, and `encoder` what its encoder does.
struct Sequences {
  Tensor ids_N;                       ///< int64, token ids
  Tensor position_N;                  ///< int64, position in the sequence, for rotary embeddings
  std::vector<Segment> segments;      ///< cover [0, N) without overlap, in order
  std::vector<std::int64_t> lengths;  ///< real tokens of each segment, the rest is padding
  Tensor predict_C;                   ///< int64, index into N of the position that predicts the scored token
  Tensor target_C;                    ///< int64, id of the scored token
  Tensor row_C;                       ///< int64, the sequence (0..B-1) that the scored token belongs to
  Tensor needed_S = {};               ///< int64, ascending: the positions whose states matter; undefined: all
  Tensor prefix_P = {};            ///< int64, the tokens of the pass before that prefixes are ranges of; undefined: all
  std::int64_t num_rows = 0;       ///< B
  std::int64_t num_tokens = 0;     ///< real tokens, without padding
  std::int64_t max_id = -1;        ///< the largest id, known without asking the device
  std::vector<Sequences> encoder;  ///< none, or one: the prompts, each once; its tokens are not scored
  std::vector<KeyRange> prompts;   ///< of each segment, where its prompt is in that

  /// Tokens of the longest sequence, its prefix and its padding counted: the largest position plus one.
  std::int64_t longest() const {
    std::int64_t out = 0;
    for (const Segment& segment : segments) out = std::max(out, segment.prefix_length + segment.length);
    return out;
  }
};

/// A batch's sequences in which tokens that prompts share are there once; see make_shared_prompts.
struct SharedPrompts {
  Sequences rows;                     ///< (prompt, completion) of each example
  std::optional<Sequences> kl_tails;  ///< the completions of the KL pairs alone, their prefixes tokens of `rows`;
                                      ///< predict_C counts on: i < N is token i of `rows`, N + i token i of these
};

/// One place of a batch: a row, and the row whose completion follows its prompt in the KL pair.
struct Pick {
  const Example* example = nullptr;     ///< the row: one of those given to train(), of which it must not outlive
  const Example* kl_partner = nullptr;  ///< null in batches made without KL pairs, such as those of log_probs
};

/// One micro-batch.
struct Batch {
  Sequences rows;                       ///< (prompt, completion) of each example
  std::optional<Sequences> kl_rows;     ///< (prompt, another row's completion), the same prompts in the same order
  std::optional<SharedPrompts> shared;  ///< the same with shared tokens once, for models that can (KeepsPrefix)
  Tensor sign_B;                        ///< float64, +1 desirable, -1 undesirable
  std::int64_t num_chosen = 0;          ///< rows with sign +1, known without asking the device
  std::vector<Pick> picks;  ///< the rows it was made of, for references that look values up, and for messages
};

/// The same on `device`; no copy where it is there already. Nothing waits for the device.
inline Sequences to_device(Sequences sequences, at::Device device) {
  for (Sequences& prompts : sequences.encoder) prompts = to_device(std::move(prompts), device);
  for (Tensor* tensor : {&sequences.ids_N, &sequences.position_N, &sequences.predict_C, &sequences.target_C,
                         &sequences.row_C, &sequences.needed_S, &sequences.prefix_P})
    if (tensor->defined()) *tensor = to_device(*tensor, device);
  return sequences;
}
/// A batch with all of its tensors on `device`, likewise.
inline Batch to_device(Batch batch, at::Device device) {
  batch.rows = to_device(std::move(batch.rows), device);
  if (batch.kl_rows) batch.kl_rows = to_device(std::move(*batch.kl_rows), device);
  if (batch.shared) {
    batch.shared->rows = to_device(std::move(batch.shared->rows), device);
    if (batch.shared->kl_tails) batch.shared->kl_tails = to_device(std::move(*batch.shared->kl_tails), device);
  }
  batch.sign_B = to_device(batch.sign_B, device);
  return batch;
}

}  // namespace kto
