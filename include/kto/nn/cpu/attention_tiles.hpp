// SPDX-License-Identifier: Apache-2.0
// What blocked attention is made of: products of small matrices in float32, kept in registers, on rows where they lie.
#pragma once

#include <algorithm>

#include "kto/core/vectorized.hpp"

namespace kto::detail {

/// Queries and keys in a block.
constexpr std::int64_t attention_block = 64;

/// N numbers of one register, or of a few.
template <int N>
struct Lanes {
  typedef float Type __attribute__((vector_size(4 * N)));
  typedef float Anywhere __attribute__((vector_size(4 * N), aligned(4), may_alias));
};

/// A matrix as it lies in memory.
template <class Number>
struct Rows {
  Number* data;
  std::int64_t stride;  ///< from one row to the next
  Number* row(std::int64_t i) const { return data + i * stride; }
};

/// c (+)= a b for any number of rows and a multiple of 16 columns; a's element (m, k) is a[m * row_a + k * step_a].
struct Product {
  std::int64_t rows, columns, depth;
  const float* a;
  std::int64_t row_a, step_a;
  Rows<const float> b;
  Rows<float> c;
  bool add;
};

/// R rows from m on and N C columns from n on.
template <int R, int C, int N>
[[gnu::always_inline]] inline void product_piece(const Product& x, std::int64_t m, std::int64_t n) {
  using Numbers = typename Lanes<N>::Type;
  using Anywhere = typename Lanes<N>::Anywhere;
  Numbers sum[R][C];
  for (int r = 0; r < R; ++r)
    for (int i = 0; i < C; ++i)
      sum[r][i] = x.add ? *reinterpret_cast<const Anywhere*>(x.c.row(m + r) + n + N * i) : Numbers{};
  const float *a = x.a + m * x.row_a, *b = x.b.data + n;
  const std::int64_t row_a = x.row_a, step_a = x.step_a, row_b = x.b.stride;
  for (std::int64_t k = 0; k < x.depth; ++k, a += step_a, b += row_b) {
    Numbers right[C];
    for (int i = 0; i < C; ++i) right[i] = *reinterpret_cast<const Anywhere*>(b + N * i);
    for (int r = 0; r < R; ++r) {
      const float left = a[r * row_a];
      for (int i = 0; i < C; ++i) sum[r][i] += left * right[i];
    }
  }
  for (int r = 0; r < R; ++r)
    for (int i = 0; i < C; ++i) *reinterpret_cast<Anywhere*>(x.c.row(m + r) + n + N * i) = sum[r][i];
}

/// All rows from m on, in pieces of R and then of fewer.
template <int R, int C, int N>
[[gnu::always_inline]] inline void product_strip(const Product& x, std::int64_t m, std::int64_t n) {
  for (; m + R <= x.rows; m += R) product_piece<R, C, N>(x, m, n);
  if constexpr (R > 1)
    if (m < x.rows) product_strip<(R > 4 ? 4 : R / 2), C, N>(x, m, n);
}

/// The product with pieces that suit the registers of a processor.
template <int R, int C, int N>
[[gnu::always_inline]] inline void product_of(const Product& x) {
  std::int64_t n = 0;
  for (; n + N * C <= x.columns; n += N * C) product_strip<R, C, N>(x, 0, n);
  if constexpr (N * C > 16)
    for (; n < x.columns; n += N) product_strip<R, 1, N>(x, 0, n);
}

/// Rows as float32: where they lie, or widened to `scratch`.
inline Rows<const float> float_rows(Rows<const float> rows, std::int64_t, std::int64_t, float*) { return rows; }
template <class Number>
Rows<const float> float_rows(Rows<const Number> rows, std::int64_t count, std::int64_t width, float* scratch) {
  for (std::int64_t i = 0; i < count; ++i)
    for (std::int64_t c = 0; c < width; ++c) scratch[i * width + c] = load(rows.row(i)[c]);
  return {scratch, width};
}

/// [count, width] to [width, 64], the missing columns 0.
inline void transpose_block(Rows<const float> rows, std::int64_t count, std::int64_t width, float* out) {
  if (count < attention_block) std::fill(out, out + width * attention_block, 0.0F);
  for (std::int64_t i = 0; i < count; ++i)
    for (std::int64_t c = 0; c < width; ++c) out[c * attention_block + i] = rows.row(i)[c];
}

/// Products for each kind of processor, compiled once and not in each place that calls them. A piece's sums, the columns
/// that they share and one number of the left matrix are in registers: of 16 with AVX2, of 32 with AVX-512.
struct PlainProducts {
  static void product(const Product& x) { product_of<4, 2, 4>(x); }
};
#if defined(__x86_64__) && defined(__GNUC__)
struct Avx2Products {
  [[gnu::target("avx2,fma"), gnu::flatten, gnu::noinline]] static void product(const Product& x) {
    product_of<6, 2, 8>(x);
  }
};
struct Avx512Products {
  [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"), gnu::flatten, gnu::noinline]] static void product(
      const Product& x) {
    product_of<8, 2, 16>(x);
  }
};
#endif

/// kernel.template operator()<Products>(), compiled for this processor.
template <class Kernel>
void run_with_products(const Kernel& kernel) {
#if defined(__x86_64__) && defined(__GNUC__)
  if (vector_level() == 2)
    return run_avx512([&](std::int64_t, std::int64_t) { kernel.template operator()<Avx512Products>(); }, 0, 1);
  if (vector_level() == 1)
    return run_avx2([&](std::int64_t, std::int64_t) { kernel.template operator()<Avx2Products>(); }, 0, 1);
#endif
  kernel.template operator()<PlainProducts>();
}

}  // namespace kto::detail
