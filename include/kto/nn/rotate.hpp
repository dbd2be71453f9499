// SPDX-License-Identifier: Apache-2.0
// Turns queries and keys by their positions' angles: one kernel, and the same from LibTorch's operators, its oracle.
#pragma once

#include "kto/core/vectorized.hpp"
#include "kto/nn/rope.hpp"

namespace kto {

// Shapes: N tokens, H heads, d head dimension.

/// apply_rope from LibTorch's operators, for any device and type.
inline Tensor apply_rope_composed(const Tensor& x_NHd, const RopeTables& tables, at::ScalarType out_type) {
  const std::int64_t rotated = tables.cos_Nd.size(-1), half = rotated / 2, others = x_NHd.size(-1) - rotated;
  const Tensor given = x_NHd.narrow(-1, 0, rotated);
  const Tensor pairs = tables.interleaved ? given.unflatten(-1, {-1, 2}).transpose(-2, -1).flatten(-2) : given;
  const Tensor turned = at::cat({-pairs.narrow(-1, half, half), pairs.narrow(-1, 0, half)}, -1);
  const Tensor out = (pairs * tables.cos_Nd.unsqueeze(1) + turned * tables.sin_Nd.unsqueeze(1)).to(out_type);
  return others > 0 ? at::cat({out, x_NHd.narrow(-1, rotated, others).to(out_type)}, -1) : out;
}

namespace detail {

/// x_NHd rotated by the tables' angles, or back where `inverse`, from LibTorch's operators: two kernels for each half.
inline Tensor rotate_by_halves(const Tensor& x_NHd, const RopeTables& tables, bool inverse, at::ScalarType out_type) {
  const std::int64_t rotated = tables.cos_Nd.size(-1), others = x_NHd.size(-1) - rotated;
  const Tensor out = at::empty(x_NHd.sizes(), x_NHd.options().dtype(out_type));
  const auto halves = [&](const Tensor& all, bool are_neighbours) {
    const Tensor turning = all.narrow(-1, 0, rotated);
    return are_neighbours ? turning.unflatten(-1, {-1, 2}).unbind(-1) : turning.chunk(2, -1);
  };
  const auto from = halves(x_NHd, tables.interleaved && !inverse), to = halves(out, tables.interleaved && inverse);
  const auto first_half = [&](const Tensor& table_Nd) { return table_Nd.narrow(-1, 0, rotated / 2).unsqueeze(1); };
  const Tensor cos = first_half(tables.cos_Nd), sin = first_half(tables.sin_Nd);
  const double sign = inverse ? -1 : 1;
  Tensor first = to[0], second = to[1];
  at::addcmul_out(first, from[0] * cos, from[1], sin, -sign);
  at::addcmul_out(second, from[1] * cos, from[0], sin, sign);
  if (others > 0) out.narrow(-1, rotated, others).copy_(x_NHd.narrow(-1, rotated, others));
  return out;
}

/// The same in one kernel on the CPU. Rows of x may lie apart.
template <class = void>
Tensor rotate(const Tensor& x_NHd, const RopeTables& tables, bool inverse, at::ScalarType out_type) {
  if (!x_NHd.is_cpu()) return rotate_by_halves(x_NHd, tables, inverse, out_type);
  const Tensor held = x_NHd.stride(-1) == 1 ? x_NHd : x_NHd.contiguous(),
               out = at::empty(x_NHd.sizes(), x_NHd.options().dtype(out_type));
  const std::int64_t heads = x_NHd.size(1), width = x_NHd.size(2), rotated = tables.cos_Nd.size(-1), half = rotated / 2;
  const std::int64_t token_stride = held.stride(0), head_stride = held.stride(1);
  const float *cos = tables.cos_Nd.const_data_ptr<float>(), *sin = tables.sin_Nd.const_data_ptr<float>();
  const float sign = inverse ? -1.0F : 1.0F;
  const bool reads_neighbours = tables.interleaved && !inverse, writes_neighbours = tables.interleaved && inverse;
  visit_types(x_NHd.scalar_type(), out_type, [&]<class In, class Out>(In*, Out*) {
    const In* from = held.const_data_ptr<In>();
    Out* to = out.mutable_data_ptr<Out>();
    const auto rotate_head = [=](const In* x, Out* y, const float* c, const float* s) {
      // Pair i is x[i step] and x[i step + apart].
      const auto turn = [=](std::int64_t in_step, std::int64_t in_apart, std::int64_t out_step,
                            std::int64_t out_apart) {
        for (std::int64_t i = 0; i < half; ++i) {
          const float a = load(x[i * in_step]), b = load(x[i * in_step + in_apart]);
          store(y[i * out_step], a * c[i] - sign * b * s[i]);
          store(y[i * out_step + out_apart], b * c[i] + sign * a * s[i]);
        }
      };
      if (reads_neighbours)
        turn(2, 1, 1, half);
      else if (writes_neighbours)
        turn(1, half, 2, 1);
      else
        turn(1, half, 1, half);
      for (std::int64_t i = rotated; i < width; ++i) store(y[i], load(x[i]));
    };
    vectorized(x_NHd.size(0), std::max<std::int64_t>(1, 8192 / (heads * width)), [=](std::int64_t n, std::int64_t end) {
      for (; n < end; ++n)
        for (std::int64_t head = 0; head < heads; ++head)
          rotate_head(from + n * token_stride + head * head_stride, to + (n * heads + head) * width, cos + n * rotated,
                      sin + n * rotated);
    });
  });
  return out;
}
KTO_COMPILED_ONCE(Tensor rotate<>(const Tensor&, const RopeTables&, bool, at::ScalarType));

struct Rotate : torch::autograd::Function<Rotate> {
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x_NHd, const Tensor& cos_Nd,
                        const Tensor& sin_Nd, bool interleaved, at::ScalarType out_type) {
    ctx->save_for_backward({cos_Nd, sin_Nd});
    ctx->saved_data["interleaved"] = interleaved;
    ctx->saved_data["type"] = static_cast<std::int64_t>(x_NHd.scalar_type());
    return rotate(x_NHd, {cos_Nd, sin_Nd, interleaved}, false, out_type);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    check(!at::GradMode::is_enabled(), "apply_rope has no second derivatives: use apply_rope_composed");
    const auto saved = ctx->get_saved_variables();
    const auto type = static_cast<at::ScalarType>(ctx->saved_data["type"].toInt());
    return {
        rotate(grads[0], {saved[0], saved[1], ctx->saved_data["interleaved"].toBool()}, true, type), {}, {}, {}, {}};
  }
};

}  // namespace detail

/// Rotates the first coordinates of x_NHd, as many as the tables have; the others stay. The result has `out_type`.
/// Where pairs are interleaved it has their first coordinates in front of their second ones: scores do not depend on
/// the order.
inline Tensor apply_rope(const Tensor& x_NHd, const RopeTables& tables, at::ScalarType out_type) {
  if (!takes_vectorized(x_NHd.scalar_type(), out_type) || x_NHd.numel() == 0)
    return apply_rope_composed(x_NHd, tables, out_type);
  return detail::Rotate::apply(x_NHd, tables.cos_Nd.contiguous(), tables.sin_Nd.contiguous(), tables.interleaved,
                               out_type);
}

}  // namespace kto
