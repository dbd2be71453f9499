// SPDX-License-Identifier: Apache-2.0
// The token embedding, whose gradient touches no more rows than the batch has tokens when it may be added in place.
#pragma once

#include "kto/nn/weight_grad.hpp"

namespace kto {

// Shapes: N tokens, V vocabulary, D width, K tokens whose rows are trained.

namespace detail {

struct Embedding : torch::autograd::Function<Embedding> {
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& weight_VD, const Tensor& ids_N,
                        std::int64_t pad_id) {
    WeightUse::in_forward(ctx);
    ctx->save_for_backward({weight_VD, ids_N});
    ctx->saved_data["pad_id"] = pad_id;
    return at::embedding(weight_VD, ids_N, pad_id);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &weight_VD = saved[0], &ids_N = saved[1];
    const std::int64_t pad_id = ctx->saved_data["pad_id"].toInt();
    if (!WeightUse::in_backward(ctx).adds_gradient_of(weight_VD))
      return {at::embedding_dense_backward(grads[0], ids_N, weight_VD.size(0), pad_id, false), {}, {}};
    const auto lock = lock_gradient(weight_VD);
    if (!weight_VD.grad().defined())
      weight_VD.mutable_grad() = at::zeros_like(weight_VD.detach(), at::MemoryFormat::Contiguous);
    const Tensor grad_ND = grads[0].to(weight_VD.scalar_type());
    weight_VD.grad().index_add_(0, ids_N, pad_id < 0 ? grad_ND : grad_ND * (ids_N != pad_id).unsqueeze(-1));
    return {Tensor(), {}, {}};
  }
};

}  // namespace detail

/// Rows `ids_N` (int64) of weight_VD; the row `pad_id` gets no gradient, none is left out when it is negative.
inline Tensor embed(const Tensor& weight_VD, const Tensor& ids_N, std::int64_t pad_id = -1) {
  return detail::Embedding::apply(weight_VD, ids_N, pad_id);
}

/// Rows of an embedding or a head that are trained, the others being frozen: PEFT's trainable_token_indices.
struct TrainedRows {
  Tensor ids_K;  ///< int64, each once
  Tensor rows_KD;

  /// The table or weight [V, D] with these rows in it.
  Tensor put_into(const Tensor& weight_VD) const {
    return weight_VD.detach().index_copy(0, ids_K, rows_KD.to(weight_VD.scalar_type()));
  }
  /// `rows_ND`, which are those of ids_N in the frozen table, with these in their place; `pad_id` as embed() has it.
  Tensor put_among(const Tensor& rows_ND, const Tensor& ids_N, std::int64_t pad_id) const {
    const Tensor is_NK = ids_N.unsqueeze(1) == ids_K.unsqueeze(0);
    const Tensor trained_ND = rows_KD.to(rows_ND.scalar_type()).index_select(0, is_NK.to(at::kByte).argmax(1));
    const Tensor frozen_N1 = (ids_N == pad_id).unsqueeze(1), use_N1 = is_NK.any(1, /*keepdim=*/true);
    return at::where(use_N1, at::where(frozen_N1, trained_ND.detach(), trained_ND), rows_ND);
  }
};

}  // namespace kto
