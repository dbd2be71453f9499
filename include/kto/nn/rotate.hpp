// SPDX-License-Identifier: Apache-2.0
// Turns queries and keys by their positions' angles: one kernel, and the same from LibTorch's operators, its oracle.
#pragma once

#include "kto/core/vectorized.hpp"
#include "kto/nn/rope.hpp"

namespace kto {

// Shapes: N tokens, H heads, d head dimension.

/// apply_rope from LibTorch's operators, for any device and type.
inline Tensor apply_rope_composed(const Tensor& x_NHd, const RopeTables& tables, at::ScalarType out_type) {
  const std::int64_t half = x_NHd.size(-1) / 2;
  const Tensor rotated_NHd = at::cat({-x_NHd.narrow(-1, half, half), x_NHd.narrow(-1, 0, half)}, -1);
  return (x_NHd * tables.cos_Nd.unsqueeze(1) + rotated_NHd * tables.sin_Nd.unsqueeze(1)).to(out_type);
}

namespace detail {

/// x_NHd rotated by the tables' angles, or back where `inverse`: two of LibTorch's kernels for each half.
inline Tensor rotate_by_halves(const Tensor& x_NHd, const Tensor& cos_Nd, const Tensor& sin_Nd, bool inverse,
                               at::ScalarType out_type) {
  const Tensor out = at::empty(x_NHd.sizes(), x_NHd.options().dtype(out_type));
  const auto a = x_NHd.chunk(2, -1), to = out.chunk(2, -1);
  const Tensor cos = cos_Nd.chunk(2, -1)[0].unsqueeze(1), sin = sin_Nd.chunk(2, -1)[0].unsqueeze(1);
  const double sign = inverse ? -1 : 1;
  Tensor first = to[0], second = to[1];
  at::addcmul_out(first, a[0] * cos, a[1], sin, -sign);
  at::addcmul_out(second, a[1] * cos, a[0], sin, sign);
  return out;
}

/// The same in one kernel on the CPU.
inline Tensor rotate(const Tensor& x_NHd, const Tensor& cos_Nd, const Tensor& sin_Nd, bool inverse,
                     at::ScalarType out_type) {
  if (!x_NHd.is_cpu()) return rotate_by_halves(x_NHd, cos_Nd, sin_Nd, inverse, out_type);
  const Tensor held = x_NHd.contiguous(), out = at::empty(x_NHd.sizes(), x_NHd.options().dtype(out_type));
  const std::int64_t heads = x_NHd.size(1), width = x_NHd.size(2), half = width / 2;
  const float *cos = cos_Nd.const_data_ptr<float>(), *sin = sin_Nd.const_data_ptr<float>();
  const float sign = inverse ? -1.0F : 1.0F;
  visit_type(x_NHd.scalar_type(), [&]<class In>(In*) {
    visit_type(out_type, [&]<class Out>(Out*) {
      const In* from = held.const_data_ptr<In>();
      Out* to = out.mutable_data_ptr<Out>();
      vectorized(x_NHd.size(0), std::max<std::int64_t>(1, 8192 / (heads * width)),
                 [=](std::int64_t n, std::int64_t end) {
                   for (; n < end; ++n)
                     for (std::int64_t head = 0; head < heads; ++head) {
                       const In* x = from + (n * heads + head) * width;
                       Out* y = to + (n * heads + head) * width;
                       const float *c = cos + n * width, *s = sin + n * width;
                       for (std::int64_t i = 0; i < half; ++i) {
                         const float a = load(x[i]), b = load(x[i + half]);
                         store(y[i], a * c[i] - sign * b * s[i]);
                         store(y[i + half], b * c[i] + sign * a * s[i]);
                       }
                     }
                 });
    });
  });
  return out;
}

struct Rotate : torch::autograd::Function<Rotate> {
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x_NHd, const Tensor& cos_Nd,
                        const Tensor& sin_Nd, at::ScalarType out_type) {
    ctx->save_for_backward({cos_Nd, sin_Nd});
    ctx->saved_data["type"] = static_cast<std::int64_t>(x_NHd.scalar_type());
    return rotate(x_NHd, cos_Nd, sin_Nd, false, out_type);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    check(!at::GradMode::is_enabled(), "apply_rope has no second derivatives: use apply_rope_composed");
    const auto saved = ctx->get_saved_variables();
    const auto type = static_cast<at::ScalarType>(ctx->saved_data["type"].toInt());
    return {rotate(grads[0], saved[0], saved[1], true, type), {}, {}, {}};
  }
};

}  // namespace detail

/// Rotates the first coordinates of x_NHd, as many as the tables have; the others stay. The result has `out_type`. Where
/// pairs are interleaved it has their first coordinates in front of their second ones: scores do not depend on the order.
inline Tensor apply_rope(const Tensor& x_NHd, const RopeTables& tables, at::ScalarType out_type) {
  const std::int64_t rotated = tables.cos_Nd.size(-1), others = x_NHd.size(-1) - rotated;
  if (others > 0)
    return at::cat(
        {apply_rope(x_NHd.narrow(-1, 0, rotated), tables, out_type), x_NHd.narrow(-1, rotated, others).to(out_type)},
        -1);
  const Tensor halves_NHd = tables.interleaved ? x_NHd.unflatten(-1, {-1, 2}).transpose(-2, -1).flatten(-2) : x_NHd;
  if (!takes_vectorized(x_NHd.scalar_type()) || !takes_vectorized(out_type) || x_NHd.numel() == 0)
    return apply_rope_composed(halves_NHd, tables, out_type);
  return detail::Rotate::apply(halves_NHd, tables.cos_Nd.contiguous(), tables.sin_Nd.contiguous(), out_type);
}

}  // namespace kto
