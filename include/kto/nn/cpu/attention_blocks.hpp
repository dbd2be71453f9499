// SPDX-License-Identifier: Apache-2.0
// How blocked attention goes through a segment: blocks of queries, the blocks of keys that they see, and what is masked
// in them.
#pragma once

#include <algorithm>
#include <limits>

#include "kto/collate/batch.hpp"
#include "kto/nn/cpu/attention_tiles.hpp"

namespace kto::detail {

// Shapes: N tokens, H heads, K key/value heads, d head dimension, v that of values; i a query of a block, j a key of a block. Scores are
// held with queries side by side, [j][i], so that all that is done to a query is done to 16 at once.

/// A segment, and where the keys of its own are: its tokens, or others.
struct KeyedSegment : Segment {
  KeyRange own = {};
  std::int64_t to_prefix_grad = 0;  ///< from a row of its prefix to that of the gradient it gives it
};

/// What the kernels are given. Pointers are to rows of all heads.
template <class Number>
struct AttentionInput {
  const Number *q, *k, *v, *prefix_k, *prefix_v;
  std::int64_t heads, kv_heads, width, value_width;
  std::int64_t window;  ///< keys that a query sees at most, itself included
  std::int64_t ahead;   ///< keys after it that a query sees: none, or all
  float scale;
  float soft_cap = 0;             ///< scores are cap * tanh(score / cap); 0: no cap
  const float* biases = nullptr;  ///< [H, positions], what a score gets for its key's position; null: nothing
  std::int64_t positions = 0;
  const float* sinks = nullptr;     ///< a score a head that takes part in the softmax, without a value; null: none
  const float* relative = nullptr;  ///< [H, distances], what a score gets for its distance; null: nothing
  const int* buckets = nullptr;     ///< [distances], the bucket of each distance
  std::int64_t distances = 0;       ///< a query's position less its key's, from -nearest on
  std::int64_t nearest = 0;

  /// What the softmax of a head starts with: its maximum so far, and the sum of exponentials less that.
  struct Start {
    float most = -1e30F, total = 0;
  };
  bool has_plain_scores() const { return soft_cap == 0 && biases == nullptr && relative == nullptr; }
  /// The relative biases of a head, from distance `first` on.
  const float* relative_from(std::int64_t head, std::int64_t first) const {
    return relative + head * distances + nearest + first;
  }
  Start start(std::int64_t head) const { return sinks == nullptr ? Start{} : Start{sinks[head], 1}; }
  Rows<const Number> queries(const Number* data, std::int64_t token, std::int64_t head) const {
    return {data + (token * heads + head) * width, heads * width};
  }
  Rows<const Number> outputs(const Number* data, std::int64_t token, std::int64_t head) const {
    return {data + (token * heads + head) * value_width, heads * value_width};
  }
  Rows<const Number> keys(const Number* data, std::int64_t token, std::int64_t head) const {
    return {data + (token * kv_heads + head / (heads / kv_heads)) * width, kv_heads * width};
  }
  Rows<const Number> values(const Number* data, std::int64_t token, std::int64_t head) const {
    return {data + (token * kv_heads + head / (heads / kv_heads)) * value_width, kv_heads * value_width};
  }
};

/// A block of keys as a block of queries sees it: query i sees key j if -ahead <= behind + i - j < window.
struct KeyBlock {
  bool in_prefix;
  std::int64_t token, count;  ///< rows [token, token + count) of the keys
  std::int64_t behind;        ///< position of query 0 less that of key 0
};

/// Calls visit(KeyBlock) for the blocks that any of the queries [first, first + count) of a segment sees.
template <class Number, class Visit>
void visit_keys(const AttentionInput<Number>& in, const KeyedSegment& segment, std::int64_t first, std::int64_t count,
                const Visit& visit) {
  for (int part = 0; part < 2; ++part) {  // one call of visit, or all it does is compiled twice
    const bool in_prefix = part == 0;
    const std::int64_t token = in_prefix ? segment.prefix_begin : segment.own.begin;
    const std::int64_t size = in_prefix ? segment.prefix_length : segment.own.length;
    const std::int64_t behind = in_prefix ? segment.prefix_length + first : first;
    // Query `first` sees key j of this part from behind - window + 1 on, the last one up to behind + count - 1 + ahead.
    const std::int64_t end = std::min(size, behind + count + in.ahead);
    std::int64_t begin = std::max<std::int64_t>(0, behind - in.window + 1) / attention_block * attention_block;
    for (; begin < end; begin += attention_block)
      visit(KeyBlock{in_prefix, token + begin, std::min(attention_block, end - begin), behind - begin});
  }
}

/// Sets to `value` the scores [j][i] of a block that a query may not see.
template <class Number>
void mask_block(const AttentionInput<Number>& in, const KeyBlock& block, float* score, float value) {
  const std::int64_t above = block.behind + in.ahead;
  if (above >= block.count - 1 && block.behind + attention_block - 1 < in.window) return;
  for (std::int64_t j = 0; j < block.count; ++j) {
    const std::int64_t begin = std::clamp<std::int64_t>(j - above, 0, attention_block);
    const std::int64_t end = std::clamp<std::int64_t>(in.window + j - block.behind, begin, attention_block);
    float* row = score + j * attention_block;
    std::fill(row, row + begin, value);
    std::fill(row + end, row + attention_block, value);
  }
}

/// Makes scores [j][i] of a block's products of queries and keys, with cap and biases, or only sees that they are to be
/// multiplied. `position` is that of query 0. Returns the factor that is left to apply. `slope` [j][i], where given,
/// receives how a score grows with its scaled product, if there is a cap.
template <class Number>
float finish_scores(const AttentionInput<Number>& in, const KeyBlock& block, std::int64_t head, std::int64_t position,
                    float scale, float* score, float* slope = nullptr) {
  if (in.has_plain_scores()) return scale;
  const std::int64_t size = block.count * attention_block;
  if (in.soft_cap > 0) {
    const float cap = in.soft_cap, inner = scale / cap;
    for (std::int64_t n = 0; n < size; ++n) {
      const float share = vector_tanh(score[n] * inner);
      score[n] = cap * share;
      if (slope != nullptr) slope[n] = 1 - share * share;
    }
  } else {
    for (std::int64_t n = 0; n < size; ++n) score[n] *= scale;
  }
  if (in.relative != nullptr)
    for (std::int64_t j = 0; j < block.count; ++j) {
      const float* of_queries = in.relative_from(head, block.behind - j);
      for (std::int64_t i = 0; i < attention_block; ++i) score[j * attention_block + i] += of_queries[i];
    }
  if (in.biases == nullptr) return 1;
  const float *of_queries = in.biases + head * in.positions + position, *of_keys = of_queries - block.behind;
  for (std::int64_t j = 0; j < block.count; ++j)
    for (std::int64_t i = 0; i < attention_block; ++i) score[j * attention_block + i] += of_keys[j] - of_queries[i];
  return 1;
}

/// Adds the gradients [j][i] of a block's scores to those of the buckets of their distances, if the scores have such.
template <class Number>
void add_to_buckets(const AttentionInput<Number>& in, const KeyBlock& block, const float* grad, float* to_buckets) {
  if (in.buckets == nullptr) return;
  float by_distance[2 * attention_block] = {};  // from that of query 0 to the last key on
  for (std::int64_t j = 0; j < block.count; ++j) {
    float* of_queries = by_distance + block.count - 1 - j;
    for (std::int64_t i = 0; i < attention_block; ++i) of_queries[i] += grad[j * attention_block + i];
  }
  const int* bucket = in.buckets + in.nearest + block.behind - (block.count - 1);
  for (std::int64_t n = 0; n < block.count + attention_block - 1; ++n) to_buckets[bucket[n]] += by_distance[n];
}

}  // namespace kto::detail
