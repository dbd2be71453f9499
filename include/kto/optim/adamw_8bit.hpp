// SPDX-License-Identifier: Apache-2.0
// AdamW with 8-bit moments (arXiv:2110.02861), 2 bytes per parameter instead of 8: blocks of 256 numbers share a scale,
// their largest magnitude, and are stored as codes of dynamic quantization. As in bitsandbytes, small parameters keep
// float32 moments. Unlike there, second moments are rounded stochastically (kto/optim/compact_adamw.hpp), and a
// positive one never becomes zero.
#pragma once

#include "kto/optim/compact_adamw.hpp"
#include "kto/optim/dynamic_code.hpp"

namespace kto {

// Shapes: n elements of a parameter, b blocks of them.

struct Moments8Bit {
  static constexpr std::string_view name = "adamw_8bit";
  static constexpr std::int64_t block = 256;
  static constexpr std::int64_t smallest = 4096;  ///< parameters with fewer elements keep float32 moments

  Tensor first_n, second_n;              ///< uint8 codes; float32 for a small parameter
  Tensor first_scale_b, second_scale_b;  ///< float32; undefined for a small parameter

  /// For `numel` elements, whole blocks but the last, of a parameter with `num_whole`.
  static Moments8Bit zeros(std::int64_t numel, std::int64_t num_whole) {
    if (num_whole < smallest) return {at::zeros({numel}, at::kFloat), at::zeros({numel}, at::kFloat), {}, {}};
    const std::int64_t blocks = (numel + block - 1) / block;
    return {at::full({numel}, detail::SignedCode::zero, at::kByte), at::zeros({numel}, at::kByte),
            at::zeros({blocks}, at::kFloat), at::zeros({blocks}, at::kFloat)};
  }

  template <class Archive>
  void visit_state(Archive& archive) {
    archive("first_n", first_n);
    archive("second_n", second_n);
    archive("first_scale_b", first_scale_b);
    archive("second_scale_b", second_scale_b);
  }

  template <class = void>
  void step(const AdamWStep& one, const Tensor& values_n, const Tensor& grads_n, std::uint32_t salt);

 private:
  /// The largest magnitude of a block, or 0 if its inverse would overflow.
  static float scale_of(float largest) { return largest > 1e-30F ? largest : 0; }

  template <class T>
  void step_codes(const AdamWStep& one, T* values, const T* grads, std::uint32_t salt) {
    using detail::SignedCode, detail::UnsignedCode;
    auto* first = first_n.mutable_data_ptr<std::uint8_t>();
    auto* second = second_n.mutable_data_ptr<std::uint8_t>();
    auto* first_scales = first_scale_b.mutable_data_ptr<float>();
    auto* second_scales = second_scale_b.mutable_data_ptr<float>();
    const std::int64_t numel = first_n.numel();
    const float *signed_values = SignedCode::values.data(), *unsigned_values = UnsignedCode::values.data();
    vectorized(first_scale_b.numel(), 64, [=](std::int64_t b, std::int64_t end) {
      for (; b < end; ++b) {
        const std::int64_t begin = b * block, size = begin + block < numel ? block : numel - begin;
        float m[block], v[block];
        const float m_scale = first_scales[b], v_scale = second_scales[b];
        for (std::int64_t i = 0; i < size; ++i) {
          m[i] = signed_values[first[begin + i]] * m_scale;
          v[i] = unsigned_values[second[begin + i]] * v_scale;
        }
        for (std::int64_t i = 0; i < size; ++i) {
          T& value = values[begin + i];
          detail::store(value, one(detail::load(value), detail::load(grads[begin + i]), m[i], v[i]));
        }
        const float m_max = scale_of(detail::vector_max(size, [&](std::int64_t i) { return m[i] < 0 ? -m[i] : m[i]; }));
        const float v_max = scale_of(detail::vector_max(size, [&](std::int64_t i) { return v[i]; }));
        const float per_m = m_max > 0 ? 1 / m_max : 0, per_v = v_max > 0 ? 1 / v_max : 0;
        first_scales[b] = m_max;
        second_scales[b] = v_max;
        for (std::int64_t i = 0; i < size; ++i) {
          first[begin + i] = SignedCode::encode(m[i] * per_m);
          const std::uint32_t random = detail::hashed_bits(static_cast<std::uint32_t>(begin + i) + salt) >> 8;
          second[begin + i] = UnsignedCode::encode(v[i] * per_v, static_cast<float>(random) * 0x1p-24F);
        }
      }
    });
  }

  template <class T>
  void step_floats(const AdamWStep& one, T* values, const T* grads) {
    auto* first = first_n.mutable_data_ptr<float>();
    auto* second = second_n.mutable_data_ptr<float>();
    vectorized(first_n.numel(), smallest, [=](std::int64_t i, std::int64_t end) {
      for (; i < end; ++i)
        detail::store(values[i], one(detail::load(values[i]), detail::load(grads[i]), first[i], second[i]));
    });
  }
};

template <class>
void Moments8Bit::step(const AdamWStep& one, const Tensor& values_n, const Tensor& grads_n, std::uint32_t salt) {
  detail::visit_parameter_type(values_n.scalar_type(), [&]<class T>(T*) {
    if (first_scale_b.defined())
      step_codes(one, values_n.mutable_data_ptr<T>(), grads_n.const_data_ptr<T>(), salt);
    else
      step_floats(one, values_n.mutable_data_ptr<T>(), grads_n.const_data_ptr<T>());
  });
}
KTO_COMPILED_ONCE(void Moments8Bit::step<>(const AdamWStep&, const Tensor&, const Tensor&, std::uint32_t));

using AdamW8Bit = CompactAdamW<Moments8Bit>;

}  // namespace kto
