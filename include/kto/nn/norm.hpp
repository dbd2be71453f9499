// SPDX-License-Identifier: Apache-2.0
// RMSNorm (arXiv:1910.07467), computed in float32 or wider: a kernel that reads x once, keeps one number a row for its
// backward pass and writes the type that is asked for, and the same from LibTorch's operators, its oracle.
#pragma once

#include <cmath>

#include "kto/core/vectorized.hpp"
#include "kto/nn/weight_grad.hpp"

namespace kto {

// Shapes: R rows, D width (the last dimension).

/// rms_norm from LibTorch's operators, for any device and type.
inline Tensor rms_norm_composed(const Tensor& x, const Tensor& weight, double eps, at::ScalarType out_type) {
  const at::ScalarType type = wide_type(x.scalar_type());
  const Tensor wide = x.to(type);
  const Tensor normed = wide * at::rsqrt(wide.square().mean(-1, true) + eps);
  return (weight.to(type) * normed.to(x.scalar_type())).to(out_type);
}

/// The same by LibTorch's own kernel, which a device has for it.
inline Tensor rms_norm_fused(const Tensor& x, const Tensor& weight_D, double eps, at::ScalarType out_type) {
  const at::ScalarType type = wide_type(x.scalar_type());
  const bool is_wide = x.scalar_type() == type;  // else x is rounded before it meets the weight
  const Tensor weight = weight_D.to(type);
  const Tensor normed =
      std::get<0>(at::_fused_rms_norm(x.to(type), {x.size(-1)}, is_wide ? std::optional(weight) : std::nullopt, eps));
  return (is_wide ? normed : weight * normed.to(x.scalar_type())).to(out_type);
}

namespace detail {

/// Writes weight * round(x * scale_R) to `out`, with scale_R = 1 / sqrt(mean(x^2) + eps), which it also writes unless
/// `scaled`: then scale_R is read. All contiguous.
inline void rms_norm_rows(const Tensor& x, const Tensor& weight_D, double eps, bool scaled, const Tensor& scale_R,
                          const Tensor& out) {
  const std::int64_t width = x.size(-1);
  const float* weight = weight_D.const_data_ptr<float>();
  float* scales = scale_R.mutable_data_ptr<float>();
  const auto eps_float = static_cast<float>(eps), inverse_width = 1 / static_cast<float>(width);
  visit_type(x.scalar_type(), [&]<class In>(In*) {
    visit_type(out.scalar_type(), [&]<class Out>(Out*) {
      const In* from = x.const_data_ptr<In>();
      Out* to = out.mutable_data_ptr<Out>();
      vectorized(scale_R.numel(), std::max<std::int64_t>(1, 8192 / width), [=](std::int64_t row, std::int64_t end) {
        for (; row < end; ++row) {
          const In* in_row = from + row * width;
          Out* out_row = to + row * width;
          if (!scaled) {
            const float squares = vector_sum(width, [&](std::int64_t i) { return load(in_row[i]) * load(in_row[i]); });
            scales[row] = 1 / std::sqrt(squares * inverse_width + eps_float);
          }
          const float scale = scales[row];
          for (std::int64_t i = 0; i < width; ++i)
            store(out_row[i], weight[i] * rounded_to<In>(load(in_row[i]) * scale));
        }
      });
    });
  });
}

inline std::int64_t num_rows(const Tensor& x) { return x.numel() / std::max<std::int64_t>(1, x.size(-1)); }

struct RmsNormGrads {
  Tensor x, weight_D;
};

/// The gradients of rms_norm, that of x plus `added` where that is defined (a residual's). The weight's is summed by
/// blocks of rows, in float32 and in an order that does not depend on the number of threads.
inline RmsNormGrads rms_norm_backward(const Tensor& grad, const Tensor& x, const Tensor& weight_D,
                                      const Tensor& scale_R, bool weight_wanted, const Tensor& added = {}) {
  const std::int64_t width = x.size(-1), rows = scale_R.numel(), block = std::max<std::int64_t>(16, 16384 / width);
  const std::int64_t blocks = (rows + block - 1) / block;
  const Tensor grad_x = at::empty_like(x, at::MemoryFormat::Contiguous);
  const Tensor parts_BD = weight_wanted ? at::zeros({blocks, width}, scale_R.options()) : Tensor();
  const float* weight = weight_D.const_data_ptr<float>();
  const float* scales = scale_R.const_data_ptr<float>();
  const float* residual = added.defined() ? added.const_data_ptr<float>() : nullptr;
  float* parts = weight_wanted ? parts_BD.mutable_data_ptr<float>() : nullptr;
  visit_type(x.scalar_type(), [&]<class In>(In*) {
    visit_type(grad.scalar_type(), [&]<class Grad>(Grad*) {
      const In* from = x.const_data_ptr<In>();
      const Grad* grads = grad.const_data_ptr<Grad>();
      In* to = grad_x.mutable_data_ptr<In>();
      vectorized(blocks, 1, [=](std::int64_t first, std::int64_t last) {
        for (std::int64_t row = first * block; row < std::min(last * block, rows); ++row) {
          const In* x_row = from + row * width;
          const Grad* g_row = grads + row * width;
          In* out_row = to + row * width;
          const float scale = scales[row];
          const float dot =
              vector_sum(width, [&](std::int64_t i) { return load(g_row[i]) * weight[i] * load(x_row[i]); });
          const float shrink = scale * scale * scale * dot / static_cast<float>(width);
          if (residual != nullptr) {
            const float* added_row = residual + row * width;
            for (std::int64_t i = 0; i < width; ++i)
              store(out_row[i], added_row[i] + scale * load(g_row[i]) * weight[i] - shrink * load(x_row[i]));
          } else {
            for (std::int64_t i = 0; i < width; ++i)
              store(out_row[i], scale * load(g_row[i]) * weight[i] - shrink * load(x_row[i]));
          }
          if (parts == nullptr) continue;
          float* part = parts + row / block * width;
          for (std::int64_t i = 0; i < width; ++i) part[i] += load(g_row[i]) * (load(x_row[i]) * scale);
        }
      });
    });
  });
  return {grad_x, weight_wanted ? parts_BD.sum(0) : Tensor()};
}

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x, const Tensor& weight_D, double eps,
                        at::ScalarType out_type) {
    const Tensor held = x.contiguous(), scale_R = at::empty({num_rows(x)}, x.options().dtype(at::kFloat));
    const Tensor out = at::empty(x.sizes(), x.options().dtype(out_type));
    rms_norm_rows(held, WeightUse::in_forward(ctx).cast(weight_D, at::kFloat).contiguous(), eps, false, scale_R, out);
    ctx->save_for_backward({held, weight_D, scale_R});
    return out;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    check(!at::GradMode::is_enabled(), "rms_norm has no second derivatives on the CPU: use rms_norm_composed");
    const WeightUse use = WeightUse::in_backward(ctx);
    const auto saved = ctx->get_saved_variables();
    const bool weight_wanted = ctx->needs_input_grad(1);
    const auto out = rms_norm_backward(grads[0].contiguous(), saved[0], use.cast(saved[1], at::kFloat).contiguous(),
                                       saved[2], weight_wanted);
    return {out.x, weight_wanted ? use.vector_gradient(saved[1], out.weight_D) : Tensor(), {}, {}};
  }
};

}  // namespace detail

/// weight * x / sqrt(mean(x^2) + eps) over the last dimension, of `out_type`. As in transformers the normalised x is
/// rounded to its own type before it meets the weight.
inline Tensor rms_norm(const Tensor& x, const Tensor& weight_D, double eps, at::ScalarType out_type) {
  if (!x.is_cpu() && weight_D.dim() == 1) return rms_norm_fused(x, weight_D, eps, out_type);
  if (!takes_vectorized(x) || !takes_vectorized(out_type) || x.numel() == 0)
    return rms_norm_composed(x, weight_D, eps, out_type);
  return detail::RmsNorm::apply(x, weight_D, eps, out_type);
}

}  // namespace kto
