// SPDX-License-Identifier: Apache-2.0
// Attention of one new token to the tokens before it, whose keys and values are kept: a step of generation. It reads
// each key and value once, where it lies; sums are in float32. Its oracle is attention_composed.
#pragma once

#include "kto/nn/cpu/attention_blocks.hpp"

namespace kto::detail {

// Shapes: H heads, K key/value heads, G = H / K queries that share a key, d head dimension, v that of values; T keys
// seen, the token's own last, if it has one (in.k is not null).

/// The outputs of the G queries of one key/value head. `scratch` has G * T floats.
template <class Number>
void token_attention_head(const AttentionInput<Number>& in, std::int64_t prefix_length, std::int64_t kv_head,
                          Number* out, float* scratch) {
  const std::int64_t d = in.width, width = in.value_width, G = in.heads / in.kv_heads;
  const std::int64_t first = std::max<std::int64_t>(0, prefix_length + 1 - in.window),
                     num_own = in.k == nullptr ? 0 : 1, T = prefix_length + num_own - first;
  const auto row = [&](const Number* prefix, const Number* own, std::int64_t size, std::int64_t t) {
    return t + num_own < T ? prefix + ((first + t) * in.kv_heads + kv_head) * size : own + kv_head * size;
  };
  const Number* q_Gd = in.q + kv_head * G * d;
  for (std::int64_t t = 0; t < T; ++t) {
    const Number* k = row(in.prefix_k, in.k, d, t);
    for (std::int64_t g = 0; g < G; ++g)
      scratch[g * T + t] = in.scale * vector_sum(d, [&](std::int64_t c) { return load(q_Gd[g * d + c]) * load(k[c]); });
  }
  for (std::int64_t g = 0; g < G; ++g) {
    float* p_T = scratch + g * T;
    if (in.soft_cap > 0)
      for (std::int64_t t = 0; t < T; ++t) p_T[t] = in.soft_cap * vector_tanh(p_T[t] / in.soft_cap);
    if (in.biases != nullptr) {
      const float* of_keys = in.biases + (kv_head * G + g) * in.positions + first;
      for (std::int64_t t = 0; t < T; ++t) p_T[t] += of_keys[t] - of_keys[T - 1];
    }
    if (in.relative != nullptr) {
      const float* of_key = in.relative_from(kv_head * G + g, num_own == 0 ? 0 : T - 1);
      for (std::int64_t t = 0; t < T; ++t) p_T[t] += of_key[-t];
    }
    const auto [start_most, start_total] = in.start(kv_head * G + g);
    const float most = std::max(start_most, vector_max(T, [&](std::int64_t t) { return p_T[t]; }));
    for (std::int64_t t = 0; t < T; ++t) p_T[t] = vector_exp(p_T[t] - most);
    const float total =
        start_total * vector_exp(start_most - most) + vector_sum(T, [&](std::int64_t t) { return p_T[t]; });
    float* sum_v = scratch + G * T;
    std::fill(sum_v, sum_v + width, 0.0F);
    for (std::int64_t t = 0; t < T; ++t) {
      const Number* v = row(in.prefix_v, in.v, width, t);
      for (std::int64_t c = 0; c < width; ++c) sum_v[c] += p_T[t] * load(v[c]);
    }
    for (std::int64_t c = 0; c < width; ++c) store(out[(kv_head * G + g) * width + c], sum_v[c] / total);
  }
}

/// All heads; `in` has one token's queries, keys and values.
template <class Number>
void token_attention(const AttentionInput<Number>& in, std::int64_t prefix_length, Number* out) {
  const std::int64_t G = in.heads / in.kv_heads;
  parallel_tasks(in.kv_heads, [&](std::int64_t kv_head) {
    float* scratch = thread_scratch(G * (prefix_length + 1) + in.value_width);
    run_vectorized([&](std::int64_t, std::int64_t) { token_attention_head(in, prefix_length, kv_head, out, scratch); },
                   0, 1);
  });
}

}  // namespace kto::detail
