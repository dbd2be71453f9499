// SPDX-License-Identifier: Apache-2.0
// Vectorized loops over arrays of numbers, without compiler flags for one processor: each loop is compiled for several
// instruction sets, and the widest one that the processor supports is chosen at run time.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <type_traits>
#include <vector>

#include "kto/core/compiled_once.hpp"
#include "kto/core/parallel.hpp"

namespace kto {

/// Whether the kernels written with these loops read and write numbers of this type: float32, bfloat16 and float16.
inline bool takes_vectorized(at::ScalarType type) {
  return type == at::kFloat || type == at::kBFloat16 || type == at::kHalf;
}
/// Whether they read the one and write the other type, which may not be two different narrow ones.
inline bool takes_vectorized(at::ScalarType from, at::ScalarType to) {
  return takes_vectorized(from) && takes_vectorized(to) && (from == to || from == at::kFloat || to == at::kFloat);
}
/// Whether they accept `tensor`: one of these types, on the CPU.
inline bool takes_vectorized(const Tensor& tensor) { return tensor.is_cpu() && takes_vectorized(tensor.scalar_type()); }

namespace detail {

#if defined(__x86_64__) && defined(__GNUC__)

inline int allowed_vector_level() {
  const char* capability = std::getenv("ATEN_CPU_CAPABILITY");
  const std::string_view most = capability == nullptr ? "" : capability;
  return most == "default" ? 0 : most == "avx2" ? 1 : 2;
}

/// 2: AVX-512, 1: AVX2, 0: neither; no more than LibTorch's environment variable ATEN_CPU_CAPABILITY allows.
inline int vector_level() {
  static const int level = [] {
    __builtin_cpu_init();
    const int most = allowed_vector_level();
    if (most == 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      return 2;
    return most > 0 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 1 : 0;
  }();
  return level;
}

template <class Body>
[[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"), gnu::flatten]] void run_avx512(const Body& body,
                                                                                             std::int64_t begin,
                                                                                             std::int64_t end) {
  body(begin, end);
}
template <class Body>
[[gnu::target("avx2,fma"), gnu::flatten]] void run_avx2(const Body& body, std::int64_t begin, std::int64_t end) {
  body(begin, end);
}

#else

inline int vector_level() { return 0; }

#endif

/// Calls body(begin, end) on this thread. Everything that `body` calls must be inline and free of LibTorch.
template <class Body>
void run_vectorized(const Body& body, std::int64_t begin, std::int64_t end) {
#if defined(__x86_64__) && defined(__GNUC__)
  const int level = vector_level();
  if (level == 2) return run_avx512(body, begin, end);
  if (level == 1) return run_avx2(body, begin, end);
#endif
  body(begin, end);
}

/// `condition ? yes : no` of 32 bits, by a mask. Of comparisons that follow each other g++ makes branches, which AVX-512
/// loops survive; AVX2 loops then stay scalar.
inline std::uint32_t select(bool condition, std::uint32_t yes, std::uint32_t no) {
  const std::uint32_t mask = 0U - static_cast<std::uint32_t>(condition);
  return (yes & mask) | (no & ~mask);
}
inline float select(bool condition, float yes, float no) {
  return std::bit_cast<float>(select(condition, std::bit_cast<std::uint32_t>(yes), std::bit_cast<std::uint32_t>(no)));
}

/// bfloat16 rounded to nearest even, and float16 (IEEE 754 binary16), which is read and rounded in whole-number
/// arithmetic, so that loops are vectors without instructions for it. Bits stay in 32 bits, as vectors of float32 do.
inline std::uint32_t bfloat16_bits(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  return value == value ? rounded : 0x7FC0;
}
inline float float16_number(std::uint32_t half) {
  const std::uint32_t size = (half & 0x7FFF) << 13;  // float32's fields, with an exponent 112 too low
  const float subnormal = std::bit_cast<float>(size + 0x38800000U) - 0x1p-14F;
  const std::uint32_t normal = size + 0x38000000U, special = size | 0x7F800000U;
  const std::uint32_t finite = select(size < 0x00800000U, std::bit_cast<std::uint32_t>(subnormal), normal);
  return std::bit_cast<float>((half & 0x8000) << 16 | select(size >= 0x0F800000U, special, finite));
}
inline std::uint32_t float16_bits(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t size = bits & 0x7FFFFFFFU, sign = (bits >> 16) & 0x8000U;
  // Below 2^-14 an addition rounds at float16's smallest step, 2^-24; above, whole numbers do, as for bfloat16.
  const std::uint32_t small = std::bit_cast<std::uint32_t>(std::bit_cast<float>(size) + 0.5F) - 0x3F000000U;
  const std::uint32_t large = (size - 0x38000000U + 0x0FFFU + ((size >> 13) & 1)) >> 13;
  const std::uint32_t rounded = select(size < 0x38800000U, small, large);
  const std::uint32_t special = size > 0x7F800000U ? 0x7E00U : 0x7C00U;  // not a number; too large, or infinite
  return sign | select(size >= 0x477FF000U, special, rounded);
}

/// Numbers are read as float32, and rounded when written.
inline float load(const float& x) { return x; }
inline float load(const at::BFloat16& x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x.x) << 16); }
inline float load(const at::Half& x) { return float16_number(x.x); }
inline void store(float& to, float value) { to = value; }
inline void store(at::BFloat16& to, float value) { to.x = static_cast<std::uint16_t>(bfloat16_bits(value)); }
inline void store(at::Half& to, float value) { to.x = static_cast<std::uint16_t>(float16_bits(value)); }
/// `value` rounded to T.
template <class T>
float rounded_to(float value) {
  if constexpr (std::is_same_v<T, at::BFloat16>) return std::bit_cast<float>(bfloat16_bits(value) << 16);
  if constexpr (std::is_same_v<T, at::Half>) return float16_number(float16_bits(value));
  return value;
}

/// exp(x) to 2 units in the last place; x is clamped to [-87.3, 88].
inline float vector_exp(float x) {
  x = select(x < -87.3F, -87.3F, x);
  x = select(x > 88.0F, 88.0F, x);
  constexpr float magic = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  // NOLINTBEGIN(modernize-use-std-numbers): log2 e, and ln 2 in two parts (Cody-Waite), not single constants
  const float shifted = x * 1.44269504F + magic, n = shifted - magic;
  const float r = x - n * 0.693359375F + n * 2.12194440e-4F;
  // NOLINTEND(modernize-use-std-numbers)
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  const auto exponent = (std::bit_cast<std::int32_t>(shifted) - 0x4B400000 + 127) << 23;
  return (p * r * r + r + 1.0F) * std::bit_cast<float>(exponent);
}

/// tanh(x) to 2e-7 of itself (Cephes' polynomial near zero).
inline float vector_tanh(float x) {
  const float size = std::abs(x), square = x * x;
  float p = -5.70498872745e-3F;
  p = p * square + 2.06390887954e-2F;
  p = p * square - 5.37397155531e-2F;
  p = p * square + 1.33314422036e-1F;
  p = p * square - 3.33332819422e-1F;
  const float near = p * square * x + x, far = std::copysign(1 - 2 / (vector_exp(2 * size) + 1), x);
  return select(size < 0.625F, near, far);
}

/// sqrt(x) of a number >= 0 to 2 units in the last place (std::sqrt may set errno, which keeps loops scalar).
inline float vector_sqrt(float x) {
  float y = std::bit_cast<float>(0x5F375A86 - (std::bit_cast<std::int32_t>(x) >> 1));  // about 1 / sqrt(x)
  for (int i = 0; i < 3; ++i) y = y * (1.5F - 0.5F * x * y * y);                       // Newton's method
  return x * y;
}

/// 32 pseudo-random bits from a counter: the same on any thread and in any order.
inline std::uint32_t hashed_bits(std::uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7FEB352DU;
  x = (x ^ (x >> 15)) * 0x846CA68BU;
  return x ^ (x >> 16);
}

/// The sum of term(i) over [0, n), accumulated in 16 lanes.
template <class Term>
float vector_sum(std::int64_t n, const Term& term) {
  float lanes[16] = {};
  const std::int64_t whole = n - n % 16;
  for (std::int64_t i = 0; i < whole; i += 16)
    for (int j = 0; j < 16; ++j) lanes[j] += term(i + j);
  for (std::int64_t i = whole; i < n; ++i) lanes[0] += term(i);
  for (int width = 8; width > 0; width /= 2)
    for (int j = 0; j < width; ++j) lanes[j] += lanes[j + width];
  return lanes[0];
}

/// The largest value(i) over [0, n), which is not empty.
template <class Value>
float vector_max(std::int64_t n, const Value& value) {
  float lanes[16];
  for (float& lane : lanes) lane = value(0);
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int j = 0; j < 16; ++j) lanes[j] = lanes[j] > value(i + j) ? lanes[j] : value(i + j);
  for (; i < n; ++i) lanes[0] = lanes[0] > value(i) ? lanes[0] : value(i);
  for (int width = 8; width > 0; width /= 2)
    for (int j = 0; j < width; ++j) lanes[j] = lanes[j] > lanes[j + width] ? lanes[j] : lanes[j + width];
  return lanes[0];
}

/// Scratch memory for `floats` numbers, valid until this thread's next call.
inline float* thread_scratch(std::int64_t floats) {
  thread_local std::vector<float> held;
  if (held.size() < static_cast<std::size_t>(floats)) held.resize(static_cast<std::size_t>(floats));
  return held.data();
}

/// Calls visit with a null pointer to the C++ type of a parameter: float32 or bfloat16.
template <class Visit>
decltype(auto) visit_parameter_type(at::ScalarType type, const Visit& visit) {
  if (type == at::kBFloat16) return visit(static_cast<at::BFloat16*>(nullptr));
  return visit(static_cast<float*>(nullptr));
}
/// The same for any type that the kernels take.
template <class Visit>
decltype(auto) visit_type(at::ScalarType type, const Visit& visit) {
  if (type == at::kHalf) return visit(static_cast<at::Half*>(nullptr));
  return visit_parameter_type(type, visit);
}
/// The same for two types that they take together.
template <class Visit>
void visit_types(at::ScalarType first, at::ScalarType second, const Visit& visit) {
  visit_type(first, [&]<class First>(First* one) {
    visit_type(second, [&]<class Second>(Second* other) {
      if constexpr (std::is_same_v<First, Second> || std::is_same_v<First, float> || std::is_same_v<Second, float>)
        visit(one, other);
    });
  });
}

}  // namespace detail

/// Calls body(begin, end) on all threads, over pieces of [0, size) of at least `grain`, vectorized.
template <class Body>
void vectorized(std::int64_t size, std::int64_t grain, const Body& body) {
  parallel_ranges(size, std::max<std::int64_t>(grain, 1),
                  [&](std::int64_t begin, std::int64_t end) { detail::run_vectorized(body, begin, end); });
}

}  // namespace kto
