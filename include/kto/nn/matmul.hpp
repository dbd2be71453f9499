// SPDX-License-Identifier: Apache-2.0
// The one matrix product of the models, x w^T (+ b), without autograd, and the library behind it, chosen at run time.
// LibTorch's wheels send float32 products to MKL, which runs at half speed on AMD processors; oneDNN, in the same
// library, does not.
#pragma once

#include <atomic>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include "kto/core/bf16_product.hpp"
#include "kto/nn/cpu/transposed.hpp"
#include "kto/nn/widened_product.hpp"

namespace kto {

// Shapes: N rows, I inputs, O outputs.

/// aten: at::linear, whatever LibTorch uses. onednn: for float32 on the CPU; all else takes at::linear.
enum class MatmulBackend { aten, onednn };

namespace detail {

using LinearPointwise = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                                   std::string_view, c10::List<std::optional<at::Scalar>>,
                                   std::optional<std::string_view>);

/// oneDNN's product as LibTorch registers it for its own compiler; none in builds without oneDNN.
inline const std::optional<c10::TypedOperatorHandle<LinearPointwise>>& onednn_linear() {
  static const auto op = []() -> std::optional<c10::TypedOperatorHandle<LinearPointwise>> {
    const auto schema = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
    if (!at::hasMKLDNN() || !schema || !schema->hasKernelForDispatchKey(c10::DispatchKey::CPU)) return std::nullopt;
    return schema->typed<LinearPointwise>();
  }();
  return op;
}

/// Whether LibTorch multiplies matrices of this type with instructions of this processor. If not it has loops that take
/// several times as long as float32's, or hundreds of times. None is used for float16; for bfloat16 the processor and
/// oneDNN are asked, which both may be held back (ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA).
inline bool has_products_of(at::ScalarType type) {
  static const bool has_bf16 = [] {
    const auto schema = c10::Dispatcher::singleton().findSchema({"mkldnn::_is_mkldnn_bf16_supported", ""});
    const bool in_library = !schema || !at::hasMKLDNN() || schema->typed<bool()>().call();  // others have their own
#if defined(__x86_64__)
    return in_library && has_bf16_product();
#else
    return in_library;
#endif
  }();
  return type != at::kHalf && (type != at::kBFloat16 || has_bf16);
}
/// Whether products of such matrices are made of float32's, tile by tile.
inline bool needs_widening(const Tensor& x) { return x.is_cpu() && !has_products_of(x.scalar_type()); }

inline bool is_amd() {
#if defined(__x86_64__)
  return __builtin_cpu_is("amd");
#else
  return false;
#endif
}

/// `backend`, where this LibTorch has it. Throws UsageError, which begins with `asked_by`, where not.
inline MatmulBackend checked_backend(MatmulBackend backend, std::string_view asked_by) {
  if (backend == MatmulBackend::onednn && !onednn_linear())
    throw UsageError(concat(asked_by, ": this LibTorch has no oneDNN"));
  return backend;
}

inline MatmulBackend default_matmul_backend() {
  const char* wish = std::getenv("KTO_MATMUL");
  if (wish == nullptr) return is_amd() && onednn_linear() ? MatmulBackend::onednn : MatmulBackend::aten;
  constexpr std::string_view name = "environment variable KTO_MATMUL";
  if (std::string_view(wish) == "aten") return MatmulBackend::aten;
  if (std::string_view(wish) == "onednn") return checked_backend(MatmulBackend::onednn, name);
  throw UsageError(concat(name, ": expected aten or onednn, got \"", wish, '"'));
}

inline std::atomic<MatmulBackend>& process_matmul_backend() {
  static std::atomic<MatmulBackend> backend = default_matmul_backend();
  return backend;
}

}  // namespace detail

/// The back end of all products of this process, in every thread. It starts as the environment variable KTO_MATMUL says
/// (aten, onednn), or by the processor's maker: the same on every run, so that runs repeat to the last bit, which a
/// choice by timing would not give.
inline MatmulBackend matmul_backend() { return detail::process_matmul_backend(); }

/// Sets it for the whole process, as the switches of at::globalContext() do. Call it before the work whose products it
/// is for. Throws UsageError, which begins with `asked_by`, where this LibTorch has no such back end.
inline void set_matmul_backend(MatmulBackend backend, std::string_view asked_by = "set_matmul_backend") {
  detail::process_matmul_backend() = detail::checked_backend(backend, asked_by);
}

namespace detail {

/// x_NI w_OI^T + b_O of one type by the back end, without autograd.
inline Tensor backend_product(const Tensor& x_NI, const Tensor& weight_OI,
                              const std::optional<Tensor>& bias_O = std::nullopt) {
  const bool onednn = matmul_backend() == MatmulBackend::onednn && x_NI.scalar_type() == at::kFloat &&
                      weight_OI.scalar_type() == at::kFloat && x_NI.is_cpu() && x_NI.numel() > 0;
  if (!onednn || !onednn_linear()) return at::linear(x_NI, weight_OI, bias_O);
  return onednn_linear()->call(is_transposed(x_NI) ? by_rows(x_NI) : x_NI, weight_OI, bias_O, "none",
                               c10::List<std::optional<at::Scalar>>(), "");
}
constexpr auto float_product = [](const Tensor& x_NI, const Tensor& weight_OI) {
  return backend_product(x_NI, weight_OI);
};

}  // namespace detail

/// x_NI w_OI^T + b_O without autograd; either matrix may be a transposed view. Where the processor has no products of
/// the type, sums are float32's all the same, and rounded at the end.
inline Tensor matmul_transposed(const Tensor& x_NI, const Tensor& weight_OI,
                                const std::optional<Tensor>& bias_O = std::nullopt) {
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  if (detail::needs_widening(x_NI))
    return detail::widened_product(x_NI, weight_OI, bias_O.value_or(Tensor()), x_NI.scalar_type(),
                                   detail::float_product);
  return detail::backend_product(x_NI, weight_OI, bias_O);
}

}  // namespace kto
