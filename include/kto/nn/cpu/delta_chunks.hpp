// SPDX-License-Identifier: Apache-2.0
// The gated delta rule on the CPU, one chunk of one head at a time, forward and backward: what a chunk needs fits in
// the processor's cache, and of the forward pass only the states between chunks are kept. Its oracle is the rule token
// by token.
#pragma once

#include <algorithm>

#include "kto/nn/cpu/attention_tiles.hpp"

namespace kto::detail {

// Shapes: C = 64 tokens of a chunk, the last of which may be missing; d key and e value width; S [d, e] the state
// before the chunk. With g the sums of decays from the chunk's start, b = beta and c = exp(g_last - g):
//   W + A W = B,  A_ij = b_i (k_i k_j) exp(g_i - g_j) for j < i,  B_i = b_i (v_i - exp(g_i) k_i S)
//   out_i = exp(g_i) q_i S + sum over j <= i of M_ij W_j,  M_ij = (q_i k_j) exp(g_i - g_j)
//   the state after it is exp(g_last) S + sum over i of c_i k_i^T W_i

/// One chunk of one head, as its tokens lie in their rows.
struct DeltaChunk {
  std::int64_t count, width, value_width;
  Rows<const float> q, k, v;  ///< q without data where only states are wanted
  Rows<const float> decay, beta;
  const float* state;  ///< [d, e], null: zero
};

/// What a chunk's gradients are added to.
struct DeltaChunkGrads {
  Rows<float> q, k, v, decay, beta;
};

/// The scratch memory of a chunk.
struct DeltaScratch {
  float *k_dC, *kk_CC, *mix_CC, *decay_CC, *system_CC, *w_Ce, *seen_Ce, *sum_C, *grown_C, *left_C;

  static constexpr std::int64_t C = attention_block;
  static std::int64_t size(std::int64_t d, std::int64_t e) { return C * (d + 4 * C + 2 * e + 3); }
  DeltaScratch(float* data, std::int64_t d, std::int64_t e)
      : k_dC(data),
        kk_CC(k_dC + d * C),
        mix_CC(kk_CC + C * C),
        decay_CC(mix_CC + C * C),
        system_CC(decay_CC + C * C),
        w_Ce(system_CC + C * C),
        seen_Ce(w_Ce + C * e),
        sum_C(seen_Ce + C * e),
        grown_C(sum_C + C),
        left_C(grown_C + C) {}
};

/// [rows, columns] to [columns, rows].
inline void turn(const float* from, std::int64_t rows, std::int64_t columns, float* to) {
  constexpr std::int64_t tile = 16;
  for (std::int64_t r = 0; r < rows; r += tile)
    for (std::int64_t c = 0; c < columns; c += tile)
      for (std::int64_t i = r; i < std::min(r + tile, rows); ++i)
        for (std::int64_t j = c; j < std::min(c + tile, columns); ++j) to[j * rows + i] = from[i * columns + j];
}

/// x := (1 + A)^-1 x, or its transpose's, for [count, e]; `system_CC` is -A.
template <class Products>
void solve_chunk(const float* system_CC, std::int64_t count, std::int64_t e, bool transposed, float* x_Ce) {
  constexpr std::int64_t B = attention_block, step = 16;
  const std::int64_t blocks = (count + step - 1) / step;
  for (std::int64_t n = 0; n < blocks; ++n) {
    const std::int64_t begin = (transposed ? blocks - 1 - n : n) * step, end = std::min(begin + step, count);
    float* x = x_Ce + begin * e;
    if (transposed && end < count)
      Products::product(
          {end - begin, e, count - end, system_CC + end * B + begin, 1, B, {x_Ce + end * e, e}, {x, e}, true});
    if (!transposed && begin > 0)
      Products::product({end - begin, e, begin, system_CC + begin * B, B, 1, {x_Ce, e}, {x, e}, true});
    const auto subtract = [&](std::int64_t i, std::int64_t j, float factor) {
      for (std::int64_t c = 0; c < e; ++c) x_Ce[i * e + c] += factor * x_Ce[j * e + c];
    };
    if (transposed)
      for (std::int64_t i = end - 1; i >= begin; --i)
        for (std::int64_t j = i + 1; j < end; ++j) subtract(i, j, system_CC[j * B + i]);
    else
      for (std::int64_t i = begin; i < end; ++i)
        for (std::int64_t j = begin; j < i; ++j) subtract(i, j, system_CC[i * B + j]);
  }
}

/// What both passes make of a chunk: everything of DeltaScratch. kk has the factor exp(g_i - g_j), and is zero, as mix
/// and system are, where j sees no i.
template <class Products>
void prepare_chunk(const DeltaChunk& in, const DeltaScratch& at) {
  constexpr std::int64_t B = attention_block;
  const std::int64_t n = in.count, d = in.width, e = in.value_width;
  float sum = 0;
  for (std::int64_t i = 0; i < n; ++i) at.sum_C[i] = sum += *in.decay.row(i);
  std::fill(at.sum_C + n, at.sum_C + B, sum);
  for (std::int64_t i = 0; i < B; ++i) {
    at.grown_C[i] = vector_exp(at.sum_C[i]);
    at.left_C[i] = vector_exp(sum - at.sum_C[i]);
  }
  transpose_block(in.k, n, d, at.k_dC);
  Products::product({n, B, d, in.k.data, in.k.stride, 1, {at.k_dC, B}, {at.kk_CC, B}, false});
  if (in.q.data != nullptr)
    Products::product({n, B, d, in.q.data, in.q.stride, 1, {at.k_dC, B}, {at.mix_CC, B}, false});
  for (std::int64_t i = 0; i < n; ++i) {
    float *decay = at.decay_CC + i * B, *kk = at.kk_CC + i * B, *mix = at.mix_CC + i * B,
          *system = at.system_CC + i * B;
    const float own = at.sum_C[i], beta = *in.beta.row(i);
    for (std::int64_t j = 0; j < B; ++j) decay[j] = vector_exp(own - at.sum_C[j]);
    std::fill(decay + i + 1, decay + B, 0.0F);
    if (in.q.data != nullptr)
      for (std::int64_t j = 0; j < B; ++j) mix[j] *= decay[j];
    for (std::int64_t j = 0; j < B; ++j) kk[j] *= decay[j];
    kk[i] = 0;
    for (std::int64_t j = 0; j < B; ++j) system[j] = -beta * kk[j];
  }
  if (in.state == nullptr)
    std::fill(at.seen_Ce, at.seen_Ce + n * e, 0.0F);
  else
    Products::product({n, e, d, in.k.data, in.k.stride, 1, {in.state, e}, {at.seen_Ce, e}, false});
  for (std::int64_t i = 0; i < n; ++i) {
    const float *v = in.v.row(i), *seen = at.seen_Ce + i * e;
    const float beta = *in.beta.row(i), grown = at.grown_C[i];
    for (std::int64_t c = 0; c < e; ++c) at.w_Ce[i * e + c] = beta * (v[c] - grown * seen[c]);
  }
  solve_chunk<Products>(at.system_CC, n, e, false, at.w_Ce);
}

/// The chunk's outputs, if it has queries, and the state after it, [d, e].
template <class Products>
void delta_chunk_forward(const DeltaChunk& in, float* scratch, const Rows<float>& out, float* state_after) {
  constexpr std::int64_t B = attention_block;
  const std::int64_t n = in.count, e = in.value_width;
  const DeltaScratch at(scratch, in.width, e);
  prepare_chunk<Products>(in, at);
  if (in.q.data != nullptr) {
    if (in.state != nullptr) {
      Products::product({n, e, in.width, in.q.data, in.q.stride, 1, {in.state, e}, out, false});
      for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t c = 0; c < e; ++c) out.row(i)[c] *= at.grown_C[i];
    }
    Products::product({n, e, n, at.mix_CC, B, 1, {at.w_Ce, e}, out, in.state != nullptr});
  }
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t c = 0; c < e; ++c) at.w_Ce[i * e + c] *= at.left_C[i];
  if (in.state != nullptr)
    for (std::int64_t m = 0; m < in.width * e; ++m) state_after[m] = in.state[m] * at.grown_C[B - 1];
  Products::product({in.width, e, n, in.k.data, 1, in.k.stride, {at.w_Ce, e}, {state_after, e}, in.state != nullptr});
}
inline std::int64_t delta_forward_scratch(std::int64_t d, std::int64_t e) { return DeltaScratch::size(d, e); }

/// The chunk's part in the gradients. `grad_state` [d, e] is that of the state after it, and becomes that of the state
/// before it.
template <class Products>
void delta_chunk_backward(const DeltaChunk& in, const Rows<const float>& grad_out, float* scratch, float* grad_state,
                          const DeltaChunkGrads& to) {
  constexpr std::int64_t B = attention_block;
  const std::int64_t n = in.count, d = in.width, e = in.value_width;
  const DeltaScratch at(scratch, d, e);
  float *grad_w_Ce = scratch + DeltaScratch::size(d, e), *other_Ce = grad_w_Ce + B * e, *w_eC = other_Ce + B * e,
        *pairs_CC = w_eC + B * e, *sums_CC = pairs_CC + B * B, *turned_ed = sums_CC + B * B,
        *part_Cd = turned_ed + d * e, *grad_sum_C = part_Cd + B * d;
  prepare_chunk<Products>(in, at);
  const float keep = at.grown_C[B - 1];
  std::fill(grad_sum_C, grad_sum_C + B, 0.0F);  // of g
  float grad_last = 0;                          // of g_last, beside
  const auto dot = [](std::int64_t size, const float* a, const float* b) {
    return vector_sum(size, [&](std::int64_t c) { return a[c] * b[c]; });
  };
  // The state after it: exp(g_last) S + k^T (c W).
  if (in.state != nullptr) grad_last += keep * dot(d * e, in.state, grad_state);
  Products::product({n, e, d, in.k.data, in.k.stride, 1, {grad_state, e}, {grad_w_Ce, e}, false});
  for (std::int64_t i = 0; i < n; ++i) {
    float *grad_w = grad_w_Ce + i * e, *w = at.w_Ce + i * e, *scaled = other_Ce + i * e;
    for (std::int64_t c = 0; c < e; ++c) {
      grad_w[c] *= at.left_C[i];
      scaled[c] = w[c] * at.left_C[i];
    }
    const float moved = dot(e, grad_w, w);
    grad_last += moved;
    grad_sum_C[i] -= moved;
  }
  turn(grad_state, d, e, turned_ed);
  Products::product({n, d, e, other_Ce, e, 1, {turned_ed, d}, to.k, true});
  for (std::int64_t m = 0; m < d * e; ++m) grad_state[m] *= keep;
  if (in.state != nullptr) turn(in.state, d, e, turned_ed);
  transpose_block({at.w_Ce, e}, n, e, w_eC);
  // What the gradients of pairs' exponents exp(g_i - g_j) add to those of g, from pairs of values and gradients.
  const auto add_exponents = [&] {
    for (std::int64_t i = 0; i < n; ++i) {
      const float* row = sums_CC + i * B;
      grad_sum_C[i] += vector_sum(B, [&](std::int64_t j) { return row[j]; });
      for (std::int64_t j = 0; j < B; ++j) grad_sum_C[j] -= row[j];
    }
  };
  // The outputs.
  if (in.q.data != nullptr) {
    Products::product({n, B, e, grad_out.data, grad_out.stride, 1, {w_eC, B}, {pairs_CC, B}, false});
    Products::product({n, e, n, at.mix_CC, 1, B, grad_out, {grad_w_Ce, e}, true});
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < B; ++j) {
        const float grad = pairs_CC[i * B + j];
        sums_CC[i * B + j] = grad * at.mix_CC[i * B + j];
        pairs_CC[i * B + j] = grad * at.decay_CC[i * B + j];
      }
    add_exponents();
    Products::product({n, d, n, pairs_CC, B, 1, in.k, to.q, true});
    Products::product({n, d, n, pairs_CC, 1, B, in.q, to.k, true});
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t c = 0; c < e; ++c) other_Ce[i * e + c] = grad_out.row(i)[c] * at.grown_C[i];
    if (in.state != nullptr) {
      Products::product({n, d, e, other_Ce, e, 1, {turned_ed, d}, {part_Cd, d}, false});
      for (std::int64_t i = 0; i < n; ++i) {
        const float* part = part_Cd + i * d;
        grad_sum_C[i] += dot(d, part, in.q.row(i));
        for (std::int64_t c = 0; c < d; ++c) to.q.row(i)[c] += part[c];
      }
    }
    Products::product({d, e, n, in.q.data, 1, in.q.stride, {other_Ce, e}, {grad_state, e}, true});
  }
  // The system, then its right side.
  solve_chunk<Products>(at.system_CC, n, e, true, grad_w_Ce);
  Products::product({n, B, e, grad_w_Ce, e, 1, {w_eC, B}, {pairs_CC, B}, false});
  for (std::int64_t i = 0; i < n; ++i) {
    const float beta = *in.beta.row(i);
    float *pairs = pairs_CC + i * B, *sums = sums_CC + i * B, *grad_b = grad_w_Ce + i * e,
          *grad_seen = other_Ce + i * e;
    const float *kk = at.kk_CC + i * B, *decay = at.decay_CC + i * B, *seen = at.seen_Ce + i * e, *v = in.v.row(i);
    for (std::int64_t j = 0; j < B; ++j) sums[j] = -pairs[j] * kk[j];
    float grad_beta = vector_sum(B, [&](std::int64_t j) { return sums[j]; });
    for (std::int64_t j = 0; j < B; ++j) {
      sums[j] *= beta;
      pairs[j] *= j < i ? -beta * decay[j] : 0.0F;
    }
    const float grown = at.grown_C[i];
    grad_beta += vector_sum(e, [&](std::int64_t c) { return grad_b[c] * (v[c] - grown * seen[c]); });
    *to.beta.row(i) += grad_beta;
    float* grad_v = to.v.row(i);
    for (std::int64_t c = 0; c < e; ++c) {
      grad_v[c] += beta * grad_b[c];
      grad_seen[c] = -grown * beta * grad_b[c];
    }
    grad_sum_C[i] += dot(e, grad_seen, seen);
  }
  add_exponents();
  Products::product({n, d, n, pairs_CC, B, 1, in.k, to.k, true});
  Products::product({n, d, n, pairs_CC, 1, B, in.k, to.k, true});
  if (in.state != nullptr) Products::product({n, d, e, other_Ce, e, 1, {turned_ed, d}, to.k, true});
  Products::product({d, e, n, in.k.data, 1, in.k.stride, {other_Ce, e}, {grad_state, e}, true});
  for (std::int64_t i = n - 1; i >= 0; --i) *to.decay.row(i) += grad_last += grad_sum_C[i];
}
inline std::int64_t delta_backward_scratch(std::int64_t d, std::int64_t e) {
  return DeltaScratch::size(d, e) + attention_block * (3 * e + d + 2 * attention_block + 1) + d * e;
}

}  // namespace kto::detail
