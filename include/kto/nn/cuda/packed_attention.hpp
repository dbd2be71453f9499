// SPDX-License-Identifier: Apache-2.0
// Attention on a GPU, all segments of a row in one kernel of LibTorch's: FlashAttention (arXiv:2307.08691), or
// memory-efficient attention (arXiv:2112.05682) for float32 and for GPUs that FlashAttention does not support. Its
// oracle is attention_composed.
#pragma once

#include <memory>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "kto/nn/attention_form.hpp"
#include "kto/nn/cuda/packed_layout.hpp"
#include "kto/nn/keys_values.hpp"

namespace kto::detail {

// Shapes: N tokens of the row, R rows of keys, H heads, K key/value heads, G = H / K, d head dimension; M keys of all
// segments, those that segments share counted for each.

enum class PackedKernel : std::uint8_t { none, flash, efficient };

/// What a call of a kernel is given besides tensors.
struct PackedCall : torch::CustomClassHolder {
  PackedKernel kernel = PackedKernel::none;
  std::shared_ptr<const PackedLayout> layout;
  std::optional<std::int64_t> window;
  double scale = 1;
  std::int64_t num_prefix = 0;  ///< tokens of the row that prefixes are of

  bool is_causal() const { return layout->what.ranges.empty(); }
  /// The kind of mask of memory-efficient attention; causal: the last query sees the last key.
  std::int64_t mask() const { return is_causal() ? 2 : 0; }

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
  std::optional<std::int64_t> tokens_after() const { return window ? std::optional<std::int64_t>(0) : std::nullopt; }

  /// The output [N, H, d], and what backward() wants to know of it.
  std::vector<Tensor> forward(const Tensor& q, const Tensor& k_MKd, const Tensor& v_MKd) const {
    const PackedLayout& at = *layout;
    if (kernel == PackedKernel::flash) {
      auto [out, log_sum, seed, offset, mask] = at::_flash_attention_forward(
          q, k_MKd, v_MKd, at.query_starts, at.key_starts, at.longest_query, at.longest_key, /*dropout_p=*/0.0,
          is_causal(), /*return_debug_mask=*/false, scale, tokens_before(), tokens_after());
      return {std::move(out), std::move(log_sum), std::move(seed), std::move(offset)};
    }
    auto [out, log_sum, seed, offset, max_q, max_k] = at::_efficient_attention_forward(
        batched(q), for_heads(k_MKd, q.size(1)), for_heads(v_MKd, q.size(1)), std::nullopt, at.query_starts,
        at.key_starts, at.longest_query, at.longest_key, /*dropout_p=*/0.0, mask(), /*compute_log_sumexp=*/true, scale);
    return {out.squeeze(0), std::move(log_sum), std::move(seed), std::move(offset)};
  }

  /// The gradients of q, k_MKd and v_MKd.
  std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& q, const Tensor& k_MKd,
                                              const Tensor& v_MKd, const Tensor& out, const Tensor& log_sum,
                                              const Tensor& seed, const Tensor& offset) const {
    const PackedLayout& at = *layout;
    if (kernel == PackedKernel::flash)
      return at::_flash_attention_backward(grad, q, k_MKd, v_MKd, out, log_sum, at.query_starts, at.key_starts,
                                           at.longest_query, at.longest_key, /*dropout_p=*/0.0, is_causal(), seed,
                                           offset, scale, tokens_before(), tokens_after());
    const auto [dq, dk, dv, bias] = at::_efficient_attention_backward(
        batched(grad), batched(q), for_heads(k_MKd, q.size(1)), for_heads(v_MKd, q.size(1)), std::nullopt, batched(out),
        at.query_starts, at.key_starts, at.longest_query, at.longest_key, log_sum, /*dropout_p=*/0.0, seed, offset,
        mask(), /*bias_requires_grad=*/false, scale);
    return {dq.squeeze(0), summed_heads(dk, k_MKd.size(1)), summed_heads(dv, k_MKd.size(1))};
  }
};

/// Sinks join a softmax when it is done: the log of the sum of exponentials grows, and the output shrinks with it.
/// The kernel's backward pass takes both as the softmax's own.
struct SoftmaxWithSinks {
  Tensor log_sum_HN;  ///< sinks included
  Tensor out_NHd;

  SoftmaxWithSinks(const Tensor& out, const Tensor& log_sum, const Tensor& sinks_H)
      : log_sum_HN(at::logaddexp(log_sum, sinks_H.to(log_sum.scalar_type()).unsqueeze(1))),
        out_NHd(out.mul((log_sum - log_sum_HN).exp_().t().unsqueeze(2)).to(out.scalar_type())) {}
  /// The gradient of the sinks.
  static Tensor backward(const Tensor& grad_NHd, const Tensor& out_NHd, const Tensor& log_sum_HN,
                         const Tensor& sinks_H) {
    const auto wide = log_sum_HN.scalar_type();
    const Tensor share_HN = (sinks_H.to(wide).unsqueeze(1) - log_sum_HN).exp_();
    const Tensor change_HN = (grad_NHd.to(wide) * out_NHd.to(wide)).sum(2).t();
    return (share_HN * change_HN).sum(1).neg_().to(sinks_H.scalar_type());
  }
};

struct PackedAttention : torch::autograd::Function<PackedAttention> {
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& q_NHd, const Tensor& k_RKd,
                        const Tensor& v_RKd, const std::optional<Tensor>& sinks, const KeysValues& prefix,
                        const c10::intrusive_ptr<PackedCall>& call) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const Tensor q = q_NHd.contiguous(), k = k_RKd.contiguous(), v = v_RKd.contiguous();
    const Tensor sinks_H = sinks.value_or(Tensor());
    auto results = call->forward(q, call->layout->gathered(k, prefix.k_NKd), call->layout->gathered(v, prefix.v_NKd));
    if (sinks_H.defined()) {
      SoftmaxWithSinks whole(results[0], results[1], sinks_H);
      results[0] = std::move(whole.out_NHd);
      results[1] = std::move(whole.log_sum_HN);
    }
    // Keys are gathered again in the backward pass: it holds what it was given.
    ctx->save_for_backward(
        {q, k, v, prefix.k_NKd, prefix.v_NKd, results[0], results[1], results[2], results[3], sinks_H});
    ctx->saved_data["call"] = at::IValue::make_capsule(call);
    return results[0];
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    check(!at::GradMode::is_enabled(), "attention has no second derivatives: use attention_composed");
    const auto saved = ctx->get_saved_variables();
    const auto capsule = ctx->saved_data["call"].toCapsule();
    const auto& call = static_cast<const PackedCall&>(*capsule);
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[5], &log_sum = saved[6], &sinks_H = saved[9];
    const Tensor grad = grads[0].contiguous();
    const auto [dq, dk, dv] = call.backward(grad, q, call.layout->gathered(k, saved[3]),
                                            call.layout->gathered(v, saved[4]), out, log_sum, saved[7], saved[8]);
    const auto of_rows = [&](const Tensor& grad_M) { return call.layout->scattered(grad_M, call.num_prefix); };
    const Tensor of_sinks = sinks_H.defined() ? SoftmaxWithSinks::backward(grad, out, log_sum, sinks_H) : Tensor();
    return {dq, of_rows(dk), of_rows(dv), of_sinks, {}, {}};
  }
};

/// The kernel for queries, keys and values of one type and width, on CUDA. LibTorch decides by type, head dimension and the
/// generation of the GPU.
inline PackedKernel packed_kernel(const Tensor& q_NHd) {
  if (q_NHd.numel() == 0) return PackedKernel::none;
  const Tensor x_1H1d = q_NHd.narrow(0, 0, 1).transpose(0, 1).unsqueeze(0);
  constexpr std::int64_t flash = 1, efficient = 2, cudnn = 3;  // at::SDPBackend; cudnn wants what flash does
  const std::int64_t choice = at::_fused_sdp_choice(x_1H1d, x_1H1d, x_1H1d, std::nullopt, 0.0, /*is_causal=*/false);
  if (choice == flash || choice == cudnn) return PackedKernel::flash;
  return choice == efficient ? PackedKernel::efficient : PackedKernel::none;
}

/// The attention of all segments, each causal or to its range of `keys`, by a kernel that `choose` names for the queries
/// as the kernel would get them; nothing where none takes it.
template <class Choose>
std::optional<Tensor> packed_attention(const Tensor& q_NHd, const Tensor& k_RKd, const Tensor& v_RKd,
                                       const KeysValues& prefix, const std::vector<Segment>& segments,
                                       const std::vector<KeyRange>& keys, const AttentionForm& form,
                                       const Choose& choose) {
  const bool one_type = q_NHd.scalar_type() == k_RKd.scalar_type() && k_RKd.scalar_type() == v_RKd.scalar_type();
  if (!one_type || segments.empty() || form.soft_cap != 0 || form.alibi || form.relative) return std::nullopt;
  // Kernels want one width, a multiple of 8: zeros add nothing to a score, and their values are cut off.
  const std::int64_t value_width = v_RKd.size(2), width = (std::max(q_NHd.size(2), value_width) + 7) / 8 * 8;
  const auto widened = [&](const Tensor& x) {
    return !x.defined() || x.size(2) == width ? x : at::constant_pad_nd(x, {0, width - x.size(2)});
  };
  const Tensor q = widened(q_NHd);
  auto call = c10::make_intrusive<PackedCall>();
  call->kernel = choose(q);
  if (call->kernel == PackedKernel::none) return std::nullopt;
  const bool own = !keys.empty() || !prefix.k_NKd.defined();
  call->layout = row_layout<PackedLayout>({segments, keys, k_RKd.size(0), own, q.device()});
  if (form.window && *form.window < call->layout->longest_key) call->window = form.window;
  // Of memory-efficient attention, gradients are wrong with a window, and sums are laid out by segment.
  if (call->kernel == PackedKernel::efficient && (call->window || form.sinks_H.defined())) return std::nullopt;
  call->scale = form.scale;
  call->num_prefix = own ? 0 : prefix.k_NKd.size(0);
  const KeysValues before = own ? KeysValues{} : KeysValues{widened(prefix.k_NKd), widened(prefix.v_NKd)};
  const auto sinks = form.sinks_H.defined() ? std::optional(form.sinks_H) : std::nullopt;
  const Tensor out = PackedAttention::apply(q, widened(k_RKd), widened(v_RKd), sinks, before, call);
  return value_width == width ? out : out.narrow(2, 0, value_width);
}

/// The same by the kernel that LibTorch names; nothing on other devices.
inline std::optional<Tensor> packed_attention(const Tensor& q_NHd, const Tensor& k_RKd, const Tensor& v_RKd,
                                              const KeysValues& prefix, const std::vector<Segment>& segments,
                                              const std::vector<KeyRange>& keys, const AttentionForm& form) {
  if (!q_NHd.is_cuda()) return std::nullopt;
  return packed_attention(q_NHd, k_RKd, v_RKd, prefix, segments, keys, form, packed_kernel);
}

}  // namespace kto::detail
