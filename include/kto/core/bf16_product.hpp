// SPDX-License-Identifier: Apache-2.0
// Products of bfloat16 matrices with float32 sums, on the processor's own instructions for them: the tile registers of
// Intel's AMX, or the dot products of AVX512-BF16 (AMD since Zen 4, Intel's Cooper Lake). They are written as inline
// assembly: the compiler's header of intrinsics takes longer to parse than the rest of the attention, and the names of
// the intrinsics differ between compilers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "kto/core/vectorized.hpp"

#if defined(__x86_64__) && defined(__GNUC__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace kto::detail {

#if defined(__x86_64__) && defined(__GNUC__) && defined(__linux__)

/// Whether the processor has AMX and the system lets this process use it.
inline bool has_amx() {
  static const bool ready = [] {
    constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return vector_level() == 2 && __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
           ::syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  }();
  return ready;
}

inline bool has_avx512_bf16() {
  static const bool ready = vector_level() == 2 && __builtin_cpu_supports("avx512bf16");
  return ready;
}

/// Whether bf16_product runs here.
inline bool has_bf16_product() { return has_amx() || has_avx512_bf16(); }

/// While an instance lives, the eight tiles of this thread have 16 rows of 64 bytes each, as amx_product expects.
class AmxTiles {
 public:
  [[gnu::target("amx-tile"), gnu::noinline]] AmxTiles() {
    Layout layout;
    for (int tile = 0; tile < 8; ++tile) {
      layout.row_bytes[tile] = 64;
      layout.rows[tile] = 16;
    }
    asm volatile("ldtilecfg %0" ::"m"(layout));
  }
  [[gnu::target("amx-tile"), gnu::noinline]] ~AmxTiles() { asm volatile("tilerelease"); }
  AmxTiles(const AmxTiles&) = delete;
  AmxTiles& operator=(const AmxTiles&) = delete;

 private:
  struct alignas(64) Layout {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {};
    std::uint8_t rows[16] = {};
  };
};

/// bf16_product on AMX tiles.
[[gnu::target("amx-tile,amx-bf16"), gnu::noinline]] inline void amx_product(std::int64_t rows, std::int64_t columns,
                                                                            std::int64_t depth, const at::BFloat16* a,
                                                                            std::int64_t row_a, const std::uint32_t* b,
                                                                            std::int64_t row_b, float* c,
                                                                            std::int64_t row_c, bool add) {
  const std::int64_t bytes_a = row_a * 2, bytes_b = row_b * 4, bytes_c = row_c * 4;
  for (std::int64_t m = 0; m < rows; m += 32)
    for (std::int64_t n = 0; n < columns; n += 32) {
      float *upper = c + m * row_c + n, *lower = upper + 16 * row_c;
      if (add)
        asm volatile(
            "tileloadd (%0,%2,1), %%tmm0\n\t"
            "tileloadd 64(%0,%2,1), %%tmm1\n\t"
            "tileloadd (%1,%2,1), %%tmm2\n\t"
            "tileloadd 64(%1,%2,1), %%tmm3" ::"r"(upper),
            "r"(lower), "r"(bytes_c)
            : "memory");
      else
        asm volatile(
            "tilezero %%tmm0\n\t"
            "tilezero %%tmm1\n\t"
            "tilezero %%tmm2\n\t"
            "tilezero %%tmm3" ::);
      for (std::int64_t k = 0; k < depth; k += 32) {
        const at::BFloat16 *left = a + m * row_a + k, *left_below = left + 16 * row_a;
        asm volatile(
            "tileloadd (%0,%2,1), %%tmm4\n\t"
            "tileloadd (%3,%4,1), %%tmm6\n\t"
            "tileloadd (%1,%2,1), %%tmm5\n\t"
            "tileloadd 64(%3,%4,1), %%tmm7\n\t"
            "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n\t"
            "tdpbf16ps %%tmm6, %%tmm5, %%tmm2\n\t"
            "tdpbf16ps %%tmm7, %%tmm4, %%tmm1\n\t"
            "tdpbf16ps %%tmm7, %%tmm5, %%tmm3" ::"r"(left),
            "r"(left_below), "r"(bytes_a), "r"(b + k / 2 * row_b + n), "r"(bytes_b)
            : "memory");
      }
      asm volatile(
          "tilestored %%tmm0, (%0,%2,1)\n\t"
          "tilestored %%tmm1, 64(%0,%2,1)\n\t"
          "tilestored %%tmm2, (%1,%2,1)\n\t"
          "tilestored %%tmm3, 64(%1,%2,1)" ::"r"(upper),
          "r"(lower), "r"(bytes_c)
          : "memory");
    }
}

/// 64 bytes at any address. Packed, because clang assumes that a reference to a vector is aligned, whatever its type.
template <class Number>
struct [[gnu::packed, gnu::may_alias]] Vector {
  Number value __attribute__((vector_size(64)));
};

/// R rows and 16 C columns of bf16_product, as dot products of pairs.
template <int R, int C>
[[gnu::target("avx512f"), gnu::always_inline]] inline void dot_piece(std::int64_t depth, const at::BFloat16* a,
                                                                     std::int64_t row_a, const std::uint32_t* b,
                                                                     std::int64_t row_b, float* c, std::int64_t row_c,
                                                                     bool add) {
  using Sums = float __attribute__((vector_size(64)));
  using Pairs = std::uint32_t __attribute__((vector_size(64)));
  using Pair = std::uint32_t __attribute__((may_alias));
  const auto place = [&](int r, int n) { return reinterpret_cast<Vector<float>*>(c + r * row_c + 16 * n); };
  Sums sum[R][C];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < C; ++n) sum[r][n] = add ? place(r, n)->value : Sums{};
  for (std::int64_t k = 0; k < depth; k += 2) {
    Pairs right[C];
#pragma GCC unroll 4
    for (int n = 0; n < C; ++n)
      right[n] = reinterpret_cast<const Vector<std::uint32_t>*>(b + k / 2 * row_b + 16 * n)->value;
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Pairs left = Pairs{} + *reinterpret_cast<const Pair*>(a + r * row_a + k);  // in all lanes
#pragma GCC unroll 4
      for (int n = 0; n < C; ++n) asm("vdpbf16ps %2, %1, %0" : "+v"(sum[r][n]) : "v"(right[n]), "v"(left));
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < C; ++n) place(r, n)->value = sum[r][n];
}

/// bf16_product as dot products of pairs.
[[gnu::target("avx512f"), gnu::noinline]] inline void dot_product(std::int64_t rows, std::int64_t columns,
                                                                  std::int64_t depth, const at::BFloat16* a,
                                                                  std::int64_t row_a, const std::uint32_t* b,
                                                                  std::int64_t row_b, float* c, std::int64_t row_c,
                                                                  bool add) {
  for (std::int64_t n = 0; n < columns;) {
    const bool wide = columns - n >= 64;
    for (std::int64_t m = 0; m < rows; m += 4)
      if (wide)
        dot_piece<4, 4>(depth, a + m * row_a, row_a, b + n, row_b, c + m * row_c + n, row_c, add);
      else
        dot_piece<4, 2>(depth, a + m * row_a, row_a, b + n, row_b, c + m * row_c + n, row_c, add);
    n += wide ? 64 : 32;
  }
}

/// Runs body(), which calls bf16_product, compiled for AVX-512, which every processor with these products has.
template <class Body>
void run_bf16(const Body& body) {
  const auto vectors = [&](std::int64_t, std::int64_t) { body(); };
  if (!has_amx()) return run_avx512(vectors, 0, 1);
  const AmxTiles tiles;
  run_avx512(vectors, 0, 1);
}

/// c (+)= a b, with float32 sums. Rows of a and columns of b are multiples of 32, and so is `depth`; b holds two rows
/// of the matrix in one, b[k / 2][n] = (element k, n; element k + 1, n). Strides are from row to row, in elements.
inline void bf16_product(std::int64_t rows, std::int64_t columns, std::int64_t depth, const at::BFloat16* a,
                         std::int64_t row_a, const std::uint32_t* b, std::int64_t row_b, float* c, std::int64_t row_c,
                         bool add) {
  (has_amx() ? amx_product : dot_product)(rows, columns, depth, a, row_a, b, row_b, c, row_c, add);
}

#else

inline bool has_amx() { return false; }
inline bool has_bf16_product() { return false; }
template <class Body>
void run_bf16(const Body&) {}
inline void bf16_product(std::int64_t, std::int64_t, std::int64_t, const at::BFloat16*, std::int64_t,
                         const std::uint32_t*, std::int64_t, float*, std::int64_t, bool) {}

#endif

/// Packs two numbers from neighbouring rows of the right matrix, as bf16_product expects them.
inline std::uint32_t pair_of(at::BFloat16 low, at::BFloat16 high) {
  return static_cast<std::uint32_t>(low.x) | static_cast<std::uint32_t>(high.x) << 16;
}
/// Likewise, rounded to bfloat16.
inline std::uint32_t pair_of(float low, float high) {
  at::BFloat16 narrow_low, narrow_high;
  store(narrow_low, low);
  store(narrow_high, high);
  return pair_of(narrow_low, narrow_high);
}

/// Transposes rows [count, width] into a right matrix of bf16_product: pairs [width / 2, columns], with zeros in the
/// columns from `count` on. `width` is a multiple of 32.
template <class Number>
void turn_pairs(const Number* rows, std::int64_t count, std::int64_t width, std::uint32_t* out, std::int64_t columns) {
  constexpr std::int64_t step = 16;
  if (count < columns) std::fill(out, out + width / 2 * columns, 0U);
  for (std::int64_t first = 0; first < width / 2; first += step)
    for (std::int64_t n = 0; n < count; ++n) {
      const Number* row = rows + n * width + 2 * first;
      for (std::int64_t d = 0; d < step; ++d) out[(first + d) * columns + n] = pair_of(row[2 * d], row[2 * d + 1]);
    }
}

/// Scratch memory for a kernel, handed out from one block.
struct Bf16Scratch {
  explicit Bf16Scratch(std::int64_t floats) : next(thread_scratch(floats + 16)) {
    next += (64 - reinterpret_cast<std::uintptr_t>(next) % 64) % 64 / sizeof(float);  // a tile's row on one cache line
  }
  float* floats(std::int64_t count) { return std::exchange(next, next + count); }
  std::uint32_t* pairs(std::int64_t count) { return reinterpret_cast<std::uint32_t*>(floats(count)); }
  at::BFloat16* halves(std::int64_t count) { return reinterpret_cast<at::BFloat16*>(floats(count / 2)); }
  float* next;
};

}  // namespace kto::detail
