// SPDX-License-Identifier: Apache-2.0
// Products of narrow matrices (float16, bfloat16) from float32 ones, for processors without instructions for them: the
// operands are widened tile by tile, sums stay in float32, and results are rounded once, as those instructions do it.
// No widened copy of a whole matrix is held.
#pragma once

#include <algorithm>

#include "kto/core/vectorized.hpp"

namespace kto::detail {

// Shapes: N rows, I inputs, O outputs; n, i, o a tile of them.

/// What is widened or summed at a time: 4 MiB of float32, which a cache holds. Results of float32 are not copied, and
/// may be larger.
constexpr std::int64_t widened_elements = 1 << 20, most_summed_elements = 1 << 21, widened_depth = 4096;

/// Calls visit(begin, size) for equal parts of [0, size), none larger than `most`.
template <class Visit>
void equal_parts(std::int64_t size, std::int64_t most, const Visit& visit) {
  const std::int64_t parts = std::max<std::int64_t>(1, (size + most - 1) / most);
  for (std::int64_t part = 0; part < parts; ++part) {
    const std::int64_t begin = size * part / parts;
    visit(begin, size * (part + 1) / parts - begin);
  }
}

/// `tensor` rounded to `type`, as float32.
inline Tensor widened(const Tensor& tensor, at::ScalarType type) { return tensor.to(type).to(at::kFloat); }

/// Calls visit(first row, first column, [n, o]) with the tiles of x_NI w_OI^T in float32, of operands rounded to x's
/// type. product(a, b) is a b^T in float32; a tile has at most `elements` numbers.
template <class Product, class Visit>
void visit_widened_tiles(const Tensor& x_NI, const Tensor& weight_OI, std::int64_t elements, const Product& product,
                         const Visit& visit) {
  const auto type = x_NI.scalar_type();
  const std::int64_t depth = std::clamp<std::int64_t>(x_NI.size(1), 1, widened_depth), most = widened_elements / depth;
  equal_parts(x_NI.size(0), most, [&](std::int64_t n, std::int64_t rows) {
    const bool whole_depth = x_NI.size(1) <= depth;
    const Tensor x_nI = x_NI.narrow(0, n, rows), wide_nI = whole_depth ? widened(x_nI, type) : Tensor();
    equal_parts(weight_OI.size(0), std::clamp<std::int64_t>(elements / std::max<std::int64_t>(1, rows), 1, most),
                [&](std::int64_t o, std::int64_t columns) {
                  const Tensor weight_oI = weight_OI.narrow(0, o, columns);
                  if (whole_depth) return visit(n, o, product(wide_nI, widened(weight_oI, type)));
                  Tensor sum_no;
                  equal_parts(x_NI.size(1), depth, [&](std::int64_t i, std::int64_t size) {
                    const Tensor part_no =
                        product(widened(x_nI.narrow(1, i, size), type), widened(weight_oI.narrow(1, i, size), type));
                    sum_no = sum_no.defined() ? sum_no.add_(part_no) : part_no;
                  });
                  visit(n, o, sum_no);
                });
  });
}

/// Whether few_rows_product serves: a step of generation, which reads each weight once.
inline bool takes_few_rows_product(const Tensor& x_NI, const Tensor& weight_OI) {
  return x_NI.size(0) <= 4 && x_NI.numel() > 0 && weight_OI.scalar_type() == x_NI.scalar_type() &&
         weight_OI.stride(1) == 1;
}

/// x_NI w_OI^T in float32 for a few rows: dot products of weights where they lie.
template <class = void>
Tensor few_rows_product(const Tensor& x_NI, const Tensor& weight_OI) {
  const Tensor wide_NI = x_NI.to(at::kFloat).contiguous(),
               out_NO = at::empty({x_NI.size(0), weight_OI.size(0)}, wide_NI.options());
  const std::int64_t rows = x_NI.size(0), depth = x_NI.size(1), columns = weight_OI.size(0),
                     stride = weight_OI.stride(0);
  const float* x = wide_NI.const_data_ptr<float>();
  float* out = out_NO.mutable_data_ptr<float>();
  visit_type(x_NI.scalar_type(), [&]<class T>(T*) {
    const T* weight = weight_OI.const_data_ptr<T>();
    vectorized(columns, std::max<std::int64_t>(1, 16384 / depth), [=](std::int64_t o, std::int64_t end) {
      for (; o < end; ++o)
        for (std::int64_t n = 0; n < rows; ++n)
          out[n * columns + o] =
              vector_sum(depth, [&](std::int64_t i) { return x[n * depth + i] * load(weight[o * stride + i]); });
    });
  });
  return out_NO;
}
KTO_COMPILED_ONCE(Tensor few_rows_product<>(const Tensor&, const Tensor&));

/// x_NI w_OI^T + b_O in `out_type`, of operands rounded to x's type, with sums in float32.
template <class Product>
Tensor widened_product(const Tensor& x_NI, const Tensor& weight_OI, const Tensor& bias_O, at::ScalarType out_type,
                       const Product& product) {
  const auto finished = [&](const Tensor& sum_no, std::int64_t o) {
    return bias_O.defined() ? sum_no.add_(bias_O.narrow(0, o, sum_no.size(1))) : sum_no;
  };
  if (takes_few_rows_product(x_NI, weight_OI)) return finished(few_rows_product(x_NI, weight_OI), 0).to(out_type);
  Tensor out_NO;
  visit_widened_tiles(x_NI, weight_OI, out_type == at::kFloat ? most_summed_elements : widened_elements, product,
                      [&](std::int64_t n, std::int64_t o, const Tensor& sum_no) {
                        const Tensor tile_no = finished(sum_no, o);
                        const bool is_whole = tile_no.size(0) == x_NI.size(0) && tile_no.size(1) == weight_OI.size(0);
                        if (is_whole) {
                          out_NO = tile_no.to(out_type);
                          return;
                        }
                        if (!out_NO.defined())
                          out_NO = at::empty({x_NI.size(0), weight_OI.size(0)}, tile_no.options().dtype(out_type));
                        out_NO.narrow(0, n, tile_no.size(0)).narrow(1, o, tile_no.size(1)).copy_(tile_no);
                      });
  return out_NO;
}

/// grad_OI += a_OM b_MI, the product rounded to a's type first.
template <class Product>
void add_widened_product(const Tensor& grad_OI, const Tensor& a_OM, const Tensor& b_MI, const Product& product) {
  visit_widened_tiles(
      a_OM, b_MI.t(), widened_elements, product, [&](std::int64_t o, std::int64_t i, const Tensor& sum_oi) {
        grad_OI.narrow(0, o, sum_oi.size(0)).narrow(1, i, sum_oi.size(1)).add_(sum_oi.to(a_OM.scalar_type()));
      });
}

}  // namespace kto::detail
