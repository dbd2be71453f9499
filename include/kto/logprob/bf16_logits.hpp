// SPDX-License-Identifier: Apache-2.0
// The head's product for bfloat16 states with float32 results, on processors with such instructions. LibTorch's product
// rounds the logits to bfloat16, by up to 1/16 at a logit of 20, and each tile must then be widened again.
#pragma once

#include <algorithm>

#include "kto/core/bf16_product.hpp"

namespace kto::detail {

// Shapes: c tokens, v rows of the weight, D width.

/// Whether bf16_logits accepts such states and weights.
inline bool takes_bf16_logits(const Tensor& hidden_cD, const Tensor& weight_vD) {
  return hidden_cD.is_cpu() && hidden_cD.scalar_type() == at::kBFloat16 && takes_vectorized(weight_vD) &&
         weight_vD.scalar_type() != at::kHalf && hidden_cD.size(1) % 32 == 0 && has_bf16_product();
}

/// hidden_cD weight_vD^T in float32, with the weights rounded to bfloat16.
template <class = void>
Tensor bf16_logits(const Tensor& hidden_cD, const Tensor& weight_vD) {
  constexpr std::int64_t B = 64, R = 32;  // columns computed together; rows of one product
  const std::int64_t tokens = hidden_cD.size(0), columns = weight_vD.size(0), width = hidden_cD.size(1),
                     whole = tokens / R * R;
  const Tensor held_cD = hidden_cD.contiguous(), held_vD = weight_vD.contiguous();
  const Tensor out_cv = at::empty({tokens, columns}, hidden_cD.options().dtype(at::kFloat));
  const auto* hidden = held_cD.const_data_ptr<at::BFloat16>();
  float* out = out_cv.mutable_data_ptr<float>();
  visit_parameter_type(weight_vD.scalar_type(), [&]<class W>(W*) {
    const W* weight = held_vD.const_data_ptr<W>();
    parallel_tasks((columns + B - 1) / B, [&](std::int64_t n) {
      const std::int64_t first = n * B, count = std::min(B, columns - first);
      run_bf16([&] {
        Bf16Scratch scratch(width / 2 * B + R * width / 2 + R * B);
        std::uint32_t* pairs = scratch.pairs(width / 2 * B);
        at::BFloat16* rest = scratch.halves(R * width);
        float* sums = scratch.floats(R * B);
        turn_pairs(weight + first * width, count, width, pairs, B);
        // rows [begin, begin + size) of the states, stored at `rows`
        const auto through_scratch = [&](const at::BFloat16* rows, std::int64_t begin, std::int64_t size) {
          bf16_product(R, B, width, rows, width, pairs, B, sums, B, false);
          for (std::int64_t i = 0; i < size; ++i)
            std::copy(sums + i * B, sums + i * B + count, out + (begin + i) * columns + first);
        };
        if (count == B)
          bf16_product(whole, B, width, hidden, width, pairs, B, out + first, columns, false);
        else
          for (std::int64_t c = 0; c < whole; c += R) through_scratch(hidden + c * width, c, R);
        if (whole == tokens) return;
        std::copy(hidden + whole * width, hidden + tokens * width, rest);
        std::fill(rest + (tokens - whole) * width, rest + R * width, at::BFloat16(0.0F));
        through_scratch(rest, whole, tokens - whole);
      });
    });
  });
  return out_cv;
}
KTO_COMPILED_ONCE(Tensor bf16_logits<>(const Tensor&, const Tensor&));

}  // namespace kto::detail
