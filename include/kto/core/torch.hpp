// SPDX-License-Identifier: Apache-2.0
// The one file that includes LibTorch: ATen tensors, the operators that kto and losses call, and autograd. It includes
// neither torch/torch.h (three times the compile time) nor ATen/ATen.h (all operators: a third more). Code that calls
// other operators includes ATen/ops/NAME.h or ATen/ATen.h itself.
#pragma once

// Makes LibTorch's own headers include only the operators that they use.
#ifndef AT_PER_OPERATOR_HEADERS
#define AT_PER_OPERATOR_HEADERS
#define KTO_PER_OPERATOR_HEADERS
#endif

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/_efficient_attention_backward.h>
#include <ATen/ops/_efficient_attention_forward.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_rms_norm.h>
#include <ATen/ops/_fused_sdp_choice.h>
#include <ATen/ops/_grouped_mm.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/embedding_dense_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/log.h>
#include <ATen/ops/log1p.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/logaddexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/multinomial.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/set.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/softplus.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/version.h>

#ifdef KTO_PER_OPERATOR_HEADERS
#undef KTO_PER_OPERATOR_HEADERS
#undef AT_PER_OPERATOR_HEADERS
#endif

#include <span>
#include <string>

#include "kto/core/error.hpp"

namespace kto {

using at::Tensor;

/// Of the LibTorch that this is compiled with, as in 2.13.0.
inline constexpr const char* libtorch_version = TORCH_VERSION;

/// float64 for float64, else float32: the type of norms, softmax, log-probs, residual stream and rotary tables where
/// products are computed in `type`.
inline at::ScalarType wide_type(at::ScalarType type) { return type == at::kDouble ? at::kDouble : at::kFloat; }

/// "[2, 3]", for messages.
inline std::string shape_text(at::IntArrayRef sizes) { return concat(sizes); }

namespace detail {
/// What code that compiles without LibTorch may do with tensors where LibTorch is included (kto/loss/check.hpp): it is
/// complete there alone.
template <class Number>
struct Tensors;
template <>
struct Tensors<double> {
  using type = Tensor;
  static Tensor of(std::span<const double> values) {
    return at::tensor(at::ArrayRef<double>(values.data(), values.size()), at::kDouble);
  }
  static Tensor scalar(double value) { return at::scalar_tensor(value, at::kDouble); }
};
}  // namespace detail

}  // namespace kto
