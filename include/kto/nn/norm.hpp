// SPDX-License-Identifier: Apache-2.0
// RMSNorm (arXiv:1910.07467) and LayerNorm (arXiv:1607.06450), computed in float32 or wider: one kernel that keeps one
// or two numbers a row for its backward pass and writes the type that is asked for, and the same from LibTorch's
// operators, its oracle.
#pragma once

#include <cmath>

#include "kto/core/vectorized.hpp"
#include "kto/nn/norm_spec.hpp"
#include "kto/nn/weight_grad.hpp"

namespace kto {

// Shapes: R rows, D width (the last dimension); H rows of a weight that rows of the input take in turn, or 1.

struct Norm {
  Tensor weight_D;  ///< or [H, D], H the input's last dimension but one
  Tensor bias_D;    ///< both undefined unless the NormSpec has them
};

/// normalized() from LibTorch's operators, for any device and type.
inline Tensor normalized_composed(const NormSpec& spec, const Norm& norm, const Tensor& x, at::ScalarType out_type) {
  const at::ScalarType type = wide_type(x.scalar_type());
  const Tensor wide = x.to(type);
  Tensor out = spec.is_layer_norm ? at::layer_norm(wide, {x.size(-1)}, std::nullopt, std::nullopt, spec.eps)
                                  : (wide * at::rsqrt(wide.square().mean(-1, true) + spec.eps)).to(x.scalar_type());
  if (spec.has_weight) out = (norm.weight_D.to(type) + spec.offset) * out;
  if (spec.has_bias) out = out + norm.bias_D.to(type);
  return out.to(out_type);
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

/// A norm as the kernel reads it: `factor` is weight + offset, or ones.
struct NormNumbers {
  double eps;
  bool is_layer_norm;
  Tensor factor_HD, bias_D;  ///< float32; bias_D is undefined if the norm has no bias

  NormNumbers(const NormSpec& spec, const Norm& norm, const WeightUse& use, const Tensor& x)
      : eps(spec.eps), is_layer_norm(spec.is_layer_norm) {
    const auto wide = [&](const Tensor& parameter) { return use.cast(parameter, at::kFloat).contiguous(); };
    factor_HD = spec.has_weight ? wide(norm.weight_D) : at::ones({x.size(-1)}, x.options().dtype(at::kFloat));
    if (spec.has_weight && spec.offset != 0) factor_HD = factor_HD + spec.offset;
    if (spec.has_bias) bias_D = wide(norm.bias_D);
  }

  const float* bias() const { return bias_D.defined() ? bias_D.const_data_ptr<float>() : nullptr; }
  std::int64_t num_factors() const { return factor_HD.numel() / factor_HD.size(-1); }
};

/// What the kernel keeps of rows: 1 / std (or 1 / rms) of each, then the means of a LayerNorm.
inline Tensor empty_statistics(const NormNumbers& norm, const Tensor& x) {
  const std::int64_t rows = x.numel() / std::max<std::int64_t>(1, x.size(-1));
  return at::empty({norm.is_layer_norm ? 2 : 1, rows}, x.options().dtype(at::kFloat));
}

/// Writes factor * ((x - mean) * scale) + bias to `out`, and the statistics, which it reads where it `has_statistics`.
/// The normalised x of an RMSNorm is rounded to x's type. All contiguous.
template <class = void>
void norm_rows(const Tensor& x, const NormNumbers& norm, bool has_statistics, const Tensor& statistics_SR,
               const Tensor& out) {
  const std::int64_t width = x.size(-1), rows = statistics_SR.size(1), num_factors = norm.num_factors();
  const float *factors = norm.factor_HD.const_data_ptr<float>(), *bias = norm.bias();
  float* scales = statistics_SR.mutable_data_ptr<float>();
  float* means = norm.is_layer_norm ? scales + rows : nullptr;
  const auto eps = static_cast<float>(norm.eps), inverse_width = 1 / static_cast<float>(width);
  visit_types(x.scalar_type(), out.scalar_type(), [&]<class In, class Out>(In*, Out*) {
    const In* from = x.const_data_ptr<In>();
    Out* to = out.mutable_data_ptr<Out>();
    vectorized(rows, std::max<std::int64_t>(1, 8192 / width), [=](std::int64_t row, std::int64_t end) {
      for (; row < end; ++row) {
        const In* in_row = from + row * width;
        Out* out_row = to + row * width;
        const float* factor = factors + row % num_factors * width;
        if (!has_statistics) {
          if (means != nullptr)
            means[row] = inverse_width * vector_sum(width, [&](std::int64_t i) { return load(in_row[i]); });
          const float mean = means != nullptr ? means[row] : 0;
          const float squares = vector_sum(width, [&](std::int64_t i) {
            const float difference = load(in_row[i]) - mean;
            return difference * difference;
          });
          scales[row] = 1 / std::sqrt(squares * inverse_width + eps);
        }
        const float scale = scales[row], mean = means != nullptr ? means[row] : 0;
        const auto scaled = [&](std::int64_t i) {
          const float exact = (load(in_row[i]) - mean) * scale;
          return factor[i] * (means == nullptr ? rounded_to<In>(exact) : exact);
        };
        if (bias == nullptr)
          for (std::int64_t i = 0; i < width; ++i) store(out_row[i], scaled(i));
        else
          for (std::int64_t i = 0; i < width; ++i) store(out_row[i], scaled(i) + bias[i]);
      }
    });
  });
}
KTO_COMPILED_ONCE(void norm_rows<>(const Tensor&, const NormNumbers&, bool, const Tensor&, const Tensor&));

struct NormGrads {
  Tensor x, weight_HD, bias_D;
};

/// The gradients of a norm, that of x plus `added` where that is defined (a residual's). Those of weight and bias are
/// summed by blocks of rows, in float32 and in an order that does not depend on the number of threads.
template <class = void>
NormGrads norm_backward(const Tensor& grad, const Tensor& x, const NormNumbers& norm, const Tensor& statistics_SR,
                        bool weight_wanted, bool bias_wanted, const Tensor& added = {}) {
  const std::int64_t width = x.size(-1), rows = statistics_SR.size(1), num_factors = norm.num_factors(),
                     block = std::max<std::int64_t>(16, 16384 / width), blocks = (rows + block - 1) / block;
  const Tensor grad_x = at::empty_like(x, at::MemoryFormat::Contiguous);
  const auto parts_of = [&](bool wanted, std::int64_t size) {
    return wanted ? at::zeros({blocks, size}, statistics_SR.options()) : Tensor();
  };
  const auto data = [](const Tensor& parts) { return parts.defined() ? parts.mutable_data_ptr<float>() : nullptr; };
  const Tensor weight_parts = parts_of(weight_wanted, num_factors * width), bias_parts = parts_of(bias_wanted, width);
  float *weight_sums = data(weight_parts), *bias_sums = data(bias_parts);
  const float* factors = norm.factor_HD.const_data_ptr<float>();
  const float* scales = statistics_SR.const_data_ptr<float>();
  const float* means = norm.is_layer_norm ? scales + rows : nullptr;
  const float* residual = added.defined() ? added.const_data_ptr<float>() : nullptr;
  visit_types(x.scalar_type(), grad.scalar_type(), [&]<class In, class Grad>(In*, Grad*) {
    const In* from = x.const_data_ptr<In>();
    const Grad* grads = grad.const_data_ptr<Grad>();
    In* to = grad_x.mutable_data_ptr<In>();
    vectorized(blocks, 1, [=](std::int64_t first, std::int64_t last) {
      for (std::int64_t row = first * block; row < std::min(last * block, rows); ++row) {
        const In* x_row = from + row * width;
        const Grad* g_row = grads + row * width;
        In* out_row = to + row * width;
        const float* factor = factors + row % num_factors * width;
        const float scale = scales[row], mean = means != nullptr ? means[row] : 0;
        const float dot =
            vector_sum(width, [&](std::int64_t i) { return load(g_row[i]) * factor[i] * (load(x_row[i]) - mean); });
        const float shrink = scale * scale * scale * dot / static_cast<float>(width);
        const float shift = means == nullptr
                                ? 0
                                : scale / static_cast<float>(width) *
                                      vector_sum(width, [&](std::int64_t i) { return load(g_row[i]) * factor[i]; });
        if (residual != nullptr) {
          const float* added_row = residual + row * width;
          for (std::int64_t i = 0; i < width; ++i)
            store(out_row[i],
                  added_row[i] + scale * load(g_row[i]) * factor[i] - shrink * (load(x_row[i]) - mean) - shift);
        } else {
          for (std::int64_t i = 0; i < width; ++i)
            store(out_row[i], scale * load(g_row[i]) * factor[i] - shrink * (load(x_row[i]) - mean) - shift);
        }
        if (weight_sums != nullptr) {
          float* sums = weight_sums + (row / block * num_factors + row % num_factors) * width;
          for (std::int64_t i = 0; i < width; ++i) sums[i] += load(g_row[i]) * ((load(x_row[i]) - mean) * scale);
        }
        if (bias_sums != nullptr) {
          float* sums = bias_sums + row / block * width;
          for (std::int64_t i = 0; i < width; ++i) sums[i] += load(g_row[i]);
        }
      }
    });
  });
  return {grad_x, weight_wanted ? weight_parts.sum(0).view(norm.factor_HD.sizes()) : Tensor(),
          bias_wanted ? bias_parts.sum(0) : Tensor()};
}
KTO_COMPILED_ONCE(NormGrads norm_backward<>(const Tensor&, const Tensor&, const NormNumbers&, const Tensor&, bool, bool,
                                            const Tensor&));

struct Normalized : torch::autograd::Function<Normalized> {
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x, const std::optional<Tensor>& weight_HD,
                        const std::optional<Tensor>& bias_D, const NormSpec& spec, at::ScalarType out_type) {
    const Tensor held = x.contiguous(), out = at::empty(x.sizes(), x.options().dtype(out_type)),
                 weight = weight_HD.value_or(Tensor()), bias = bias_D.value_or(Tensor());
    const NormNumbers norm(spec, {weight, bias}, WeightUse::in_forward(ctx), x);
    const Tensor statistics_SR = empty_statistics(norm, x);
    norm_rows(held, norm, false, statistics_SR, out);
    ctx->save_for_backward({held, weight, bias, statistics_SR});
    keep(ctx, "spec", spec);
    return out;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    check(!at::GradMode::is_enabled(), "normalized has no second derivatives on the CPU: use normalized_composed");
    const WeightUse use = WeightUse::in_backward(ctx);
    const auto& spec = *kept<NormSpec>(ctx, "spec");
    const auto saved = ctx->get_saved_variables();
    const bool weight_wanted = spec.has_weight && ctx->needs_input_grad(1),
               bias_wanted = spec.has_bias && ctx->needs_input_grad(spec.has_weight ? 2 : 1);
    const auto out =
        norm_backward(grads[0].contiguous(), saved[0], NormNumbers(spec, {saved[1], saved[2]}, use, saved[0]), saved[3],
                      weight_wanted, bias_wanted);
    return {out.x,
            weight_wanted ? use.vector_gradient(saved[1], out.weight_HD) : Tensor(),
            bias_wanted ? use.vector_gradient(saved[2], out.bias_D) : Tensor(),
            {},
            {}};
  }
};

}  // namespace detail

/// The norm of x, of `out_type`. As in transformers the x that an RMSNorm divided is rounded to its own type before it
/// meets the weight.
inline Tensor normalized(const NormSpec& spec, const Norm& norm, const Tensor& x, at::ScalarType out_type) {
  if (!x.is_cpu() && !spec.is_layer_norm && spec.has_weight && !spec.has_bias && norm.weight_D.dim() == 1)
    return rms_norm_fused(x, spec.offset == 0 ? norm.weight_D : norm.weight_D + spec.offset, spec.eps, out_type);
  if (!x.is_cpu() || !takes_vectorized(x.scalar_type(), out_type) || x.numel() == 0)
    return normalized_composed(spec, norm, x, out_type);
  const auto used = [](bool has, const Tensor& parameter) { return has ? std::optional(parameter) : std::nullopt; };
  return detail::Normalized::apply(x, used(spec.has_weight, norm.weight_D), used(spec.has_bias, norm.bias_D), spec,
                                   out_type);
}

}  // namespace kto
