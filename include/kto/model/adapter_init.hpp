// SPDX-License-Identifier: Apache-2.0
// Initialises the matrices of an adapter as PEFT does: random A and B = 0, random orthogonal matrices, or singular or
// orthogonal vectors of the base's weight (PiSSA, arXiv:2404.02948; OLoRA, arXiv:2406.01775; MiCA, arXiv:2604.01694).
#pragma once

#include <cmath>
#include <string>

#include "kto/nn/lora.hpp"
#include "kto/nn/norm.hpp"

namespace kto::detail {

// Shapes: I inputs, O outputs, R rank, K the smaller of I and O.

struct LoraStart {
  Tensor a_RI, b_OR;
  Tensor weight_OI = {};  ///< the rest of the base's weight, if the start is subtracted from it
};

/// Initialises an adapter of rank R on weight_OI, in float32 or wider, with the factor `scaling` on B A.
inline LoraStart start_lora(const Tensor& weight_OI, std::int64_t R, double scaling, const std::string& init,
                            bool of_embedding, at::Generator generator) {
  const std::int64_t O = weight_OI.size(0), I = weight_OI.size(1);
  const auto type = wide_type(weight_OI.scalar_type());
  const auto options = weight_OI.options().dtype(type).requires_grad(false);
  const auto empty = [&](std::int64_t rows, std::int64_t columns) {
    return at::empty({rows, columns}, options.device(at::kCPU));
  };
  const auto zeros = [&](std::int64_t rows, std::int64_t columns) { return at::zeros({rows, columns}, options); };
  const auto normal = [&](std::int64_t rows, std::int64_t columns, double deviation = 1) {
    return empty(rows, columns).normal_(0, deviation, generator).to(options.device());
  };
  /// The distribution of torch.nn.Linear's weight.
  const auto uniform = [&](std::int64_t rows, std::int64_t columns) {
    const double bound = 1 / std::sqrt(static_cast<double>(columns));
    return empty(rows, columns).uniform_(-bound, bound, generator).to(options.device());
  };
  const auto check_rank = [&](std::int64_t most) {
    check(R <= most, "init_lora_weights ", init, " needs a rank of at most ", most, " on a weight of shape ",
          shape_text(weight_OI.sizes()), ", got ", R);
  };

  if (init == "mica") {  // the vectors of the smallest singular values
    check_rank(std::min(O, I));
    const Tensor u_OK = std::get<0>(at::linalg_svd(weight_OI.to(type), /*full_matrices=*/false));
    return {zeros(R, I), u_OK.slice(1, u_OK.size(1) - R).contiguous()};
  }
  if (of_embedding)
    return init == "false" ? LoraStart{normal(R, I), normal(O, R)} : LoraStart{zeros(R, I), normal(O, R)};
  if (init == "false") return {uniform(R, I), uniform(O, R)};
  if (init == "gaussian") return {normal(R, I, 1 / static_cast<double>(R)), zeros(O, R)};
  if (init == "orthogonal") {
    check(R % 2 == 0, "init_lora_weights orthogonal needs an even rank, got ", R);
    const Tensor q_RR = std::get<0>(at::linalg_qr(normal(R, R)));
    const auto every_other = [&](std::int64_t first) { return q_RR.slice(0, first, R, 2); };
    return {at::matmul(normal(I, R / 2), every_other(0)).t().contiguous() / 10,
            at::matmul(normal(O, R / 2), every_other(1)) / 10};
  }
  if (init.starts_with("pissa")) {  // PEFT's pissa_niter_N approximates this one
    check_rank(std::min(O, I));
    const auto [u_OK, s_K, v_KI] = at::linalg_svd(weight_OI.to(type), /*full_matrices=*/false);
    const Tensor root_R = (s_K.slice(0, 0, R) / scaling).sqrt();
    LoraStart out{root_R.unsqueeze(1) * v_KI.slice(0, 0, R), u_OK.slice(1, 0, R) * root_R};
    out.weight_OI = weight_OI - scaling * at::matmul(out.b_OR, out.a_RI);
    return out;
  }
  if (init == "olora") {
    check_rank(std::min(O, I));
    const auto [q_OK, r_KI] = at::linalg_qr(weight_OI.to(type));
    LoraStart out{r_KI.slice(0, 0, R).contiguous(), q_OK.slice(1, 0, R).contiguous()};
    out.weight_OI = weight_OI - scaling * at::matmul(out.b_OR, out.a_RI);
    return out;
  }
  return {uniform(R, I), zeros(O, R)};
}

}  // namespace kto::detail
