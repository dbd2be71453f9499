// SPDX-License-Identifier: Apache-2.0
// The low-rank update of one linear layer: W x + s (B A x + b), b being rare (LoRA, arXiv:2106.09685), and its
// weight-decomposed form m (W + s B A) x / |W + s B A| with the norm taken by rows and held constant (DoRA,
// arXiv:2402.09353). An embedding is the layer whose W is the table transposed, on tokens as unit vectors.
#pragma once

#include <optional>

#include "kto/nn/affine.hpp"
#include "kto/nn/embedding.hpp"

namespace kto {

// Shapes: N rows, I inputs, O outputs, R rank; of an embedding V tokens are the inputs, and D its width the outputs.

struct LoraWeights {
  Tensor a_RI, b_OR;
  Tensor magnitude_O;  ///< DoRA's m; undefined for plain LoRA
  Tensor b_bias_O;     ///< b; undefined without lora_bias
  double scaling = 1;  ///< s
  double dropout = 0;  ///< on the adapter's input, where gradients are recorded

  /// The row norms of W + s B A, without gradient.
  Tensor norm_O(const Tensor& weight_OI) const {
    const at::NoGradGuard no_grad;
    return at::linalg_vector_norm(updated_OI(weight_OI), 2, 1);
  }
  /// W + s B A.
  Tensor updated_OI(const Tensor& weight_OI) const {
    return weight_OI.to(a_RI.scalar_type()) + scaling * at::matmul(b_OR, a_RI);
  }
  /// The one weight that stands for the layer and its adapter, in the adapter's type, with autograd.
  Tensor merged_OI(const Tensor& weight_OI) const {
    const Tensor updated = updated_OI(weight_OI);
    return magnitude_O.defined() ? (magnitude_O / norm_O(weight_OI)).unsqueeze(1) * updated : updated;
  }

  /// What the adapter adds to the layer's output `out_NO` = W x + bias.
  Tensor add_to(const Tensor& out_NO, const Tensor& x_NI, const Tensor& weight_OI,
                const std::optional<Tensor>& bias_O) const {
    const bool drops = dropout > 0 && at::GradMode::is_enabled();
    const Tensor in_NI = drops ? at::dropout(x_NI, dropout, true) : x_NI;
    const auto own_bias = b_bias_O.defined() ? std::optional(b_bias_O) : std::nullopt;
    const Tensor update_NO = affine(affine(in_NI, a_RI), b_OR, own_bias) * scaling;
    if (!magnitude_O.defined()) return out_NO + update_NO;
    const Tensor ratio_O = (magnitude_O / norm_O(weight_OI)).to(out_NO.scalar_type());
    const Tensor base_NO = drops    ? affine(in_NI, weight_OI)
                           : bias_O ? out_NO - bias_O->to(out_NO.scalar_type())
                                    : out_NO;
    return out_NO + (ratio_O - 1) * base_NO + ratio_O * update_NO;
  }

  /// The rows `ids_N` of an embedding with its adapter, from those of `table_VD` itself; `pad_id` as embed() has it.
  Tensor add_to_rows(const Tensor& rows_ND, const Tensor& ids_N, const Tensor& table_VD, std::int64_t pad_id) const {
    const Tensor update_ND = affine(embed(a_RI.t(), ids_N, pad_id), b_OR) * scaling;
    if (!magnitude_O.defined()) return rows_ND + update_ND;
    return (magnitude_O / norm_O(table_VD.t())).to(rows_ND.scalar_type()) * (rows_ND + update_ND);
  }
};

}  // namespace kto
