// SPDX-License-Identifier: Apache-2.0
// A causal convolution along the sequences of a row, each channel by itself: a kernel for the CPU, and the same from
// LibTorch's operators, its oracle.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "kto/collate/batch.hpp"
#include "kto/core/vectorized.hpp"
#include "kto/nn/weight_grad.hpp"

namespace kto {

// Shapes: N tokens of all segments, C channels, K taps, M rows of inputs.

/// The parameters of such a convolution, as torch.nn.Conv1d has them.
struct CausalConv {
  Tensor weight_C1K;  ///< tap K - 1 is the token itself
  Tensor bias_C;      ///< undefined if it has none
};

/// Inputs of a convolution that tokens which follow may need: those of a row from token `first` on.
struct ConvMemory {
  Tensor x_NC;
  std::int64_t first = 0;
};

namespace detail {

/// [N, K] of int64 on the CPU: for each token and tap the row of the inputs, the segments' own followed by those of
/// `before`; -1 before the start of a sequence.
inline Tensor conv_sources(const std::vector<Segment>& segments, std::int64_t num_taps, std::int64_t num_tokens,
                           const ConvMemory& before) {
  const Tensor out_NK = at::full({num_tokens, num_taps}, -1, at::kLong);
  std::int64_t* out = out_NK.mutable_data_ptr<std::int64_t>();
  const std::int64_t prefixes = before.x_NC.defined() ? num_tokens - before.first : 0;
  for (const Segment& segment : segments)
    for (std::int64_t t = 0; t < segment.length; ++t)
      for (std::int64_t back = 0; back < num_taps; ++back) {
        std::int64_t& source = out[(segment.begin + t) * num_taps + num_taps - 1 - back];
        const std::int64_t in_prefix = segment.prefix_length + t - back;
        if (t >= back)
          source = segment.begin + t - back;
        else if (in_prefix >= 0)
          source = prefixes + segment.prefix_begin + in_prefix;
      }
  return out_NK;
}

/// The convolution from LibTorch's operators; x_MC holds the rows that the sources are of.
inline Tensor causal_conv_composed(const Tensor& x_MC, const Tensor& weight_C1K, const Tensor& source_NK) {
  const Tensor with_zero = at::cat({x_MC, x_MC.new_zeros({1, x_MC.size(1)})});
  const Tensor row_NK = to_device(at::where(source_NK < 0, x_MC.size(0), source_NK), x_MC.device());
  const Tensor weight_CK = weight_C1K.squeeze(1).to(x_MC.scalar_type());
  Tensor out;
  for (std::int64_t k = 0; k < source_NK.size(1); ++k) {
    const Tensor part = with_zero.index_select(0, row_NK.select(1, k)) * weight_CK.select(1, k);
    out = out.defined() ? out + part : part;
  }
  return out;
}

template <class = void>
struct CausalConvKernel : torch::autograd::Function<CausalConvKernel<>> {
  static constexpr std::int64_t block = 64;  // channels that one thread handles at a time
  static Tensor taps_KC(const WeightUse& use, const Tensor& weight_C1K) {
    return use.cast(weight_C1K, at::kFloat).squeeze(1).t().contiguous();
  }
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x_MC, const Tensor& weight_C1K,
                        const Tensor& source_NK);
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads);
};

template <class Unused>
Tensor CausalConvKernel<Unused>::forward(torch::autograd::AutogradContext* ctx, const Tensor& x_MC,
                                         const Tensor& weight_C1K, const Tensor& source_NK) {
  const Tensor x = x_MC.contiguous(), weight_KC = taps_KC(WeightUse::in_forward(ctx), weight_C1K);
  ctx->save_for_backward({x, weight_C1K, source_NK});
  const std::int64_t N = source_NK.size(0), K = source_NK.size(1), C = x.size(1);
  const Tensor out_NC = at::empty({N, C}, x.options());
  const float* weights = weight_KC.const_data_ptr<float>();
  const std::int64_t* sources = source_NK.const_data_ptr<std::int64_t>();
  visit_type(x.scalar_type(), [&]<class T>(T*) {
    const T* from = x.const_data_ptr<T>();
    T* to = out_NC.mutable_data_ptr<T>();
    vectorized((C + block - 1) / block, 1, [=](std::int64_t first, std::int64_t last) {
      for (std::int64_t b = first; b < last; ++b) {
        const std::int64_t begin = b * block, count = std::min(block, C - begin);
        for (std::int64_t n = 0; n < N; ++n) {
          float sum[block] = {};
          for (std::int64_t k = 0; k < K; ++k) {
            const std::int64_t source = sources[n * K + k];
            if (source < 0) continue;
            const T* row = from + source * C + begin;
            const float* weight = weights + k * C + begin;
            for (std::int64_t c = 0; c < count; ++c) sum[c] += weight[c] * load(row[c]);
          }
          for (std::int64_t c = 0; c < count; ++c) store(to[n * C + begin + c], sum[c]);
        }
      }
    });
  });
  return out_NC;
}

template <class Unused>
torch::autograd::variable_list CausalConvKernel<Unused>::backward(torch::autograd::AutogradContext* ctx,
                                                                  const torch::autograd::variable_list& grads) {
  check(!at::GradMode::is_enabled(), "causal_conv has no second derivatives on the CPU: use float64");
  const WeightUse use = WeightUse::in_backward(ctx);
  const auto saved = ctx->get_saved_variables();
  const Tensor &x = saved[0], &weight_C1K = saved[1], &source_NK = saved[2];
  const Tensor grad_NC = grads[0].contiguous(), weight_KC = taps_KC(use, weight_C1K);
  const std::int64_t N = source_NK.size(0), K = source_NK.size(1), C = x.size(1);
  const Tensor grad_MC = at::zeros(x.sizes(), x.options().dtype(at::kFloat)),
               grad_KC = at::zeros({K, C}, x.options().dtype(at::kFloat));
  const float* weights = weight_KC.const_data_ptr<float>();
  const std::int64_t* sources = source_NK.const_data_ptr<std::int64_t>();
  float *to = grad_MC.mutable_data_ptr<float>(), *to_weights = grad_KC.mutable_data_ptr<float>();
  visit_type(x.scalar_type(), [&]<class T>(T*) {
    const T *from = x.const_data_ptr<T>(), *given = grad_NC.const_data_ptr<T>();
    vectorized((C + block - 1) / block, 1, [=](std::int64_t first, std::int64_t last) {
      for (std::int64_t b = first; b < last; ++b) {
        const std::int64_t begin = b * block, count = std::min(block, C - begin);
        for (std::int64_t n = 0; n < N; ++n) {
          const T* grad = given + n * C + begin;
          for (std::int64_t k = 0; k < K; ++k) {
            const std::int64_t source = sources[n * K + k];
            if (source < 0) continue;
            const T* row = from + source * C + begin;
            float* row_grad = to + source * C + begin;
            const float* weight = weights + k * C + begin;
            float* weight_grad = to_weights + k * C + begin;
            for (std::int64_t c = 0; c < count; ++c) {
              const float g = load(grad[c]);
              row_grad[c] += weight[c] * g;
              weight_grad[c] += load(row[c]) * g;
            }
          }
        }
      }
    });
  });
  const bool weight_wanted = ctx->needs_input_grad(1);
  return {grad_MC.to(x.scalar_type()),
          weight_wanted ? use.vector_gradient(weight_C1K, grad_KC.t().unsqueeze(1).contiguous()) : Tensor(),
          {}};
}
KTO_COMPILED_ONCE(struct CausalConvKernel<>);

}  // namespace detail

/// out[t] = bias + sum over k of weight[k] x[t - (K - 1) + k], of x_NC's type, where x is a segment with its prefix in
/// front, and zero before that. Prefixes are of the row that `before` was kept from, else of this one.
inline Tensor causal_conv(const CausalConv& conv, const Tensor& x_NC, const std::vector<Segment>& segments,
                          const ConvMemory& before = {}) {
  const Tensor source_NK = detail::conv_sources(segments, conv.weight_C1K.size(2), x_NC.size(0), before);
  const Tensor x_MC = before.x_NC.defined() ? at::cat({x_NC, before.x_NC}) : x_NC;
  const Tensor out_NC = takes_vectorized(x_NC) ? detail::CausalConvKernel<>::apply(x_MC, conv.weight_C1K, source_NK)
                                               : detail::causal_conv_composed(x_MC, conv.weight_C1K, source_NK);
  return conv.bias_C.defined() ? out_NC + conv.bias_C.to(out_NC.scalar_type()) : out_NC;
}

}  // namespace kto
