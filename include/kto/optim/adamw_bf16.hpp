// SPDX-License-Identifier: Apache-2.0
// AdamW with moments in bfloat16, 4 bytes per parameter instead of 8: the first moment is rounded to nearest, the
// second stochastically.
#pragma once

#include "kto/optim/compact_adamw.hpp"

namespace kto {

// Shapes: n elements of a parameter.

struct MomentsBf16 {
  static constexpr std::string_view name = "adamw_bf16";
  Tensor first_n, second_n;  ///< bfloat16

  static MomentsBf16 zeros(std::int64_t numel, std::int64_t) {
    return {at::zeros({numel}, at::kBFloat16), at::zeros({numel}, at::kBFloat16)};
  }

  template <class Archive>
  void visit_state(Archive& archive) {
    archive("first_n", first_n);
    archive("second_n", second_n);
  }

  template <class = void>
  void step(const AdamWStep& one, const Tensor& values_n, const Tensor& grads_n, std::uint32_t salt);
};

template <class>
void MomentsBf16::step(const AdamWStep& one, const Tensor& values_n, const Tensor& grads_n, std::uint32_t salt) {
  auto* first = first_n.mutable_data_ptr<at::BFloat16>();
  auto* second = second_n.mutable_data_ptr<at::BFloat16>();
  detail::visit_parameter_type(values_n.scalar_type(), [&]<class T>(T*) {
    T* values = values_n.mutable_data_ptr<T>();
    const T* grads = grads_n.const_data_ptr<T>();
    vectorized(values_n.numel(), 16384, [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        float m = detail::load(first[i]), v = detail::load(second[i]);
        detail::store(values[i], one(detail::load(values[i]), detail::load(grads[i]), m, v));
        detail::store(first[i], m);
        const std::uint32_t random = detail::hashed_bits(static_cast<std::uint32_t>(i) + salt) >> 16;
        second[i].x = static_cast<std::uint16_t>((std::bit_cast<std::uint32_t>(v) + random) >> 16);
      }
    });
  });
}
KTO_COMPILED_ONCE(void MomentsBf16::step<>(const AdamWStep&, const Tensor&, const Tensor&, std::uint32_t));

using AdamWBf16 = CompactAdamW<MomentsBf16>;

}  // namespace kto
