// SPDX-License-Identifier: Apache-2.0
// Causal attention on a GPU, all segments of a row in one kernel of LibTorch's: FlashAttention (arXiv:2307.08691), or
// memory-efficient attention (arXiv:2112.05682) for float32 and for GPUs that FlashAttention does not support. Its
// oracle is attention_composed.
#pragma once

#include <memory>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "kto/nn/cuda/packed_layout.hpp"
#include "kto/nn/keys_values.hpp"

namespace kto::detail {

// Shapes: N tokens of the row, H heads, K key/value heads, G = H / K, d head dimension; M keys of all segments, prefixes
// counted for each.

enum class PackedKernel : std::uint8_t { none, flash, efficient };

/// The kernel for such tensors. LibTorch decides by type, head dimension and the generation of the GPU; the gradients of
/// memory-efficient attention are wrong with a window.
inline PackedKernel packed_kernel(const Tensor& q_NHd, const Tensor& k_NKd, const Tensor& v_NKd, bool has_window) {
  const bool one_kind = q_NHd.scalar_type() == k_NKd.scalar_type() && k_NKd.scalar_type() == v_NKd.scalar_type() &&
                        q_NHd.size(2) == v_NKd.size(2);
  if (!one_kind || q_NHd.numel() == 0) return PackedKernel::none;
  const Tensor x_1H1d = q_NHd.narrow(0, 0, 1).transpose(0, 1).unsqueeze(0);
  constexpr std::int64_t flash = 1, efficient = 2, cudnn = 3;  // at::SDPBackend; cudnn wants what flash does
  const std::int64_t choice = at::_fused_sdp_choice(x_1H1d, x_1H1d, x_1H1d, std::nullopt, 0.0, /*is_causal=*/false);
  const bool aligned = q_NHd.size(2) % 8 == 0;
  if ((choice == flash || choice == cudnn) && aligned) return PackedKernel::flash;
  return choice == efficient && aligned && !has_window ? PackedKernel::efficient : PackedKernel::none;
}

/// What a call of a kernel is given besides tensors.
struct PackedCall : torch::CustomClassHolder {
  PackedKernel kernel = PackedKernel::none;
  std::shared_ptr<const PackedLayout> layout;
  std::optional<std::int64_t> window;
  double scale = 1;
  std::int64_t num_prefix = 0;  ///< tokens of the row that prefixes are of

  static constexpr std::int64_t causal_from_end = 2;  // the last query sees the last key

  // Memory-efficient attention has a batch dimension, and as many key heads as query heads.
  static Tensor batched(const Tensor& x) { return x.unsqueeze(0); }
  static Tensor for_heads(const Tensor& x_MKd, std::int64_t heads) {
    return batched(x_MKd.size(1) == heads ? x_MKd : x_MKd.repeat_interleave(heads / x_MKd.size(1), 1));
  }
  static Tensor summed_heads(const Tensor& grad_1MHd, std::int64_t kv_heads) {
    return grad_1MHd.size(2) == kv_heads ? grad_1MHd.squeeze(0)
                                         : grad_1MHd.squeeze(0).unflatten(1, {kv_heads, -1}).sum(2);
  }
  std::optional<std::int64_t> tokens_before() const { return window ? std::optional(*window - 1) : std::nullopt; }

  /// The output [N, H, d], and what backward() wants to know of it.
  std::vector<Tensor> forward(const Tensor& q, const Tensor& k_MKd, const Tensor& v_MKd) const {
    const PackedLayout& at = *layout;
    if (kernel == PackedKernel::flash) {
      auto [out, log_sum, seed, offset, mask] = at::_flash_attention_forward(
          q, k_MKd, v_MKd, at.query_starts, at.key_starts, at.longest_query, at.longest_key, /*dropout_p=*/0.0,
          /*is_causal=*/true, /*return_debug_mask=*/false, scale, tokens_before(), 0);
      return {std::move(out), std::move(log_sum), std::move(seed), std::move(offset)};
    }
    auto [out, log_sum, seed, offset, max_q, max_k] = at::_efficient_attention_forward(
        batched(q), for_heads(k_MKd, q.size(1)), for_heads(v_MKd, q.size(1)), std::nullopt, at.query_starts,
        at.key_starts, at.longest_query, at.longest_key, /*dropout_p=*/0.0, causal_from_end,
        /*compute_log_sumexp=*/true, scale);
    return {out.squeeze(0), std::move(log_sum), std::move(seed), std::move(offset)};
  }

  /// The gradients of q, k_MKd and v_MKd.
  std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& q, const Tensor& k_MKd,
                                              const Tensor& v_MKd, const Tensor& out, const Tensor& log_sum,
                                              const Tensor& seed, const Tensor& offset) const {
    const PackedLayout& at = *layout;
    if (kernel == PackedKernel::flash)
      return at::_flash_attention_backward(grad, q, k_MKd, v_MKd, out, log_sum, at.query_starts, at.key_starts,
                                           at.longest_query, at.longest_key, /*dropout_p=*/0.0, /*is_causal=*/true,
                                           seed, offset, scale, tokens_before(), 0);
    const auto [dq, dk, dv, bias] = at::_efficient_attention_backward(
        batched(grad), batched(q), for_heads(k_MKd, q.size(1)), for_heads(v_MKd, q.size(1)), std::nullopt, batched(out),
        at.query_starts, at.key_starts, at.longest_query, at.longest_key, log_sum, /*dropout_p=*/0.0, seed, offset,
        causal_from_end, /*bias_requires_grad=*/false, scale);
    return {dq.squeeze(0), summed_heads(dk, k_MKd.size(1)), summed_heads(dv, k_MKd.size(1))};
  }
};

struct PackedAttention : torch::autograd::Function<PackedAttention> {
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& q_NHd, const Tensor& k_NKd,
                        const Tensor& v_NKd, const KeysValues& prefix, const c10::intrusive_ptr<PackedCall>& call) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const Tensor q = q_NHd.contiguous(), k = k_NKd.contiguous(), v = v_NKd.contiguous();
    auto results = call->forward(q, call->layout->gathered(k, prefix.k_NKd), call->layout->gathered(v, prefix.v_NKd));
    // Keys are gathered again in the backward pass: it holds what it was given.
    ctx->save_for_backward({q, k, v, prefix.k_NKd, prefix.v_NKd, results[0], results[1], results[2], results[3]});
    ctx->saved_data["call"] = at::IValue::make_capsule(call);
    return results[0];
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    check(!at::GradMode::is_enabled(), "attention has no second derivatives: use attention_composed");
    const auto saved = ctx->get_saved_variables();
    const auto capsule = ctx->saved_data["call"].toCapsule();
    const auto& call = static_cast<const PackedCall&>(*capsule);
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2];
    const auto [dq, dk, dv] = call.backward(grads[0].contiguous(), q, call.layout->gathered(k, saved[3]),
                                            call.layout->gathered(v, saved[4]), saved[5], saved[6], saved[7], saved[8]);
    const auto of_row = [&](const Tensor& grad_M) {
      return call.layout->scattered(grad_M, k.size(0), call.num_prefix);
    };
    return {dq, of_row(dk), of_row(dv), {}, {}};
  }
};

/// The attention of all segments, or nothing where no kernel takes it.
inline std::optional<Tensor> packed_attention(const Tensor& q_NHd, const Tensor& k_NKd, const Tensor& v_NKd,
                                              const KeysValues& prefix, const std::vector<Segment>& segments,
                                              std::optional<std::int64_t> window, double scale) {
  if (!q_NHd.is_cuda()) return std::nullopt;
  const bool own = !prefix.k_NKd.defined();
  auto call = c10::make_intrusive<PackedCall>();
  call->layout = packed_layout(segments, own, q_NHd.device());
  if (window && *window < call->layout->longest_key) call->window = window;
  call->kernel = packed_kernel(q_NHd, k_NKd, v_NKd, call->window.has_value());
  if (call->kernel == PackedKernel::none) return std::nullopt;
  call->scale = scale;
  call->num_prefix = own ? 0 : prefix.k_NKd.size(0);
  return PackedAttention::apply(q_NHd, k_NKd, v_NKd, prefix, call);
}

}  // namespace kto::detail
