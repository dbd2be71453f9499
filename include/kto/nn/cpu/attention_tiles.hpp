// SPDX-License-Identifier: Apache-2.0
// What blocked attention is made of: products of small matrices in float32, kept in registers, on rows where they lie.
#pragma once

#include <algorithm>

#include "kto/core/vectorized.hpp"

namespace kto::detail {

/// Queries and keys in a block.
constexpr std::int64_t attention_block = 64;

using Lanes = float __attribute__((vector_size(64)));
constexpr std::int64_t num_lanes = 16;
using LanesAnywhere = float __attribute__((vector_size(64), aligned(4), may_alias));

/// R rows and 16 C columns of c (+)= a b, where a's element (m, k) is a[m * row_a + k * step_a].
template <int R, int C>
void product_piece(const float* a, std::int64_t row_a, std::int64_t step_a, const float* b, std::int64_t row_b,
                   float* c, std::int64_t row_c, std::int64_t depth, bool add) {
  Lanes sum[R][C];
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < C; ++n)
      sum[r][n] = add ? *reinterpret_cast<const LanesAnywhere*>(c + r * row_c + num_lanes * n) : Lanes{};
  for (std::int64_t k = 0; k < depth; ++k) {
    Lanes right[C];
    for (int n = 0; n < C; ++n) right[n] = *reinterpret_cast<const LanesAnywhere*>(b + k * row_b + num_lanes * n);
    for (int r = 0; r < R; ++r) {
      const float left = a[r * row_a + k * step_a];
      for (int n = 0; n < C; ++n) sum[r][n] += left * right[n];
    }
  }
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < C; ++n) *reinterpret_cast<LanesAnywhere*>(c + r * row_c + num_lanes * n) = sum[r][n];
}

/// A matrix as it lies in memory.
template <class Number>
struct Rows {
  Number* data;
  std::int64_t stride;  ///< from one row to the next
  Number* row(std::int64_t i) const { return data + i * stride; }
};

/// c (+)= a b for any number of rows and a multiple of 16 columns; R and C suit the registers of a processor.
template <int R, int C>
void product(std::int64_t rows, std::int64_t columns, std::int64_t depth, const float* a, std::int64_t row_a,
             std::int64_t step_a, Rows<const float> b, Rows<float> c, bool add) {
  for (std::int64_t n = 0; n < columns;) {
    const bool wide = columns - n >= num_lanes * C;
    std::int64_t m = 0;
    for (; m + R <= rows; m += R)
      if (wide)
        product_piece<R, C>(a + m * row_a, row_a, step_a, b.data + n, b.stride, c.row(m) + n, c.stride, depth, add);
      else
        product_piece<R, 1>(a + m * row_a, row_a, step_a, b.data + n, b.stride, c.row(m) + n, c.stride, depth, add);
    for (; m < rows; ++m)
      if (wide)
        product_piece<1, C>(a + m * row_a, row_a, step_a, b.data + n, b.stride, c.row(m) + n, c.stride, depth, add);
      else
        product_piece<1, 1>(a + m * row_a, row_a, step_a, b.data + n, b.stride, c.row(m) + n, c.stride, depth, add);
    n += wide ? 16 * C : 16;
  }
}

/// [count, width] to [width, 64], the missing columns 0.
inline void transpose_block(Rows<const float> rows, std::int64_t count, std::int64_t width, float* out) {
  if (count < attention_block) std::fill(out, out + width * attention_block, 0.0F);
  for (std::int64_t i = 0; i < count; ++i)
    for (std::int64_t c = 0; c < width; ++c) out[c * attention_block + i] = rows.row(i)[c];
}

/// kernel.template operator()<R, C>() compiled for this processor, with tiles that suit its registers.
template <class Kernel>
void run_for_registers(const Kernel& kernel) {
  const auto small = [&](std::int64_t, std::int64_t) { kernel.template operator()<4, 1>(); };
#if defined(__x86_64__) && defined(__GNUC__)
  const auto large = [&](std::int64_t, std::int64_t) { kernel.template operator()<8, 2>(); };
  if (vector_level() == 2) return run_avx512(large, 0, 1);
  if (vector_level() == 1) return run_avx2(small, 0, 1);
#endif
  small(0, 1);
}

}  // namespace kto::detail
