// SPDX-License-Identifier: Apache-2.0
// Tokens sorted by the experts that they go through, and products of all rows, each with its expert's weight. On the CPU
// the rows of one expert are worked on at a time. On a device all are, so that it gets few and large kernels. Where it has
// no kernel for such products, they are made expert by expert, and the host reads how many rows each has, once a layer:
// forms of a fixed size, which need no reading, make at least twice the work, and copies of the weights.
#pragma once

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "kto/nn/cuda/grouped_product.hpp"
#include "kto/nn/kept.hpp"
#include "kto/nn/matmul.hpp"

namespace kto::detail {

// Shapes: N tokens, K experts of a token, S = N K rows sorted by expert, n rows of a block, E experts, D, I and O widths.

/// Which rows are an expert's.
struct ExpertRows : torch::CustomClassHolder {
  std::int64_t per_token = 1;  ///< K
  Tensor order_S;              ///< int64, the place of each row in [N, K]
  Tensor token_S;              ///< int64, its token
  Tensor expert_S;             ///< int64, its expert
  Tensor end_E;                ///< int32, where each expert's rows end

  /// end_E for the host, which waits for it the first time.
  const std::vector<std::int32_t>& ends() const {
    if (ends_.empty()) {
      const Tensor here_E = end_E.cpu();
      ends_.assign(here_E.const_data_ptr<std::int32_t>(), here_E.const_data_ptr<std::int32_t>() + here_E.numel());
    }
    return ends_;
  }

 private:
  mutable std::vector<std::int32_t> ends_;
};

inline c10::intrusive_ptr<ExpertRows> sorted_by_expert(const Tensor& expert_NK, std::int64_t num_experts) {
  const at::NoGradGuard no_grad;
  auto out = c10::make_intrusive<ExpertRows>();
  out->per_token = expert_NK.size(1);
  std::tie(out->expert_S, out->order_S) = expert_NK.flatten().sort(/*stable=*/true, /*dim=*/0, /*descending=*/false);
  out->token_S = out->order_S.div(out->per_token, "floor");
  const Tensor& expert_S = out->expert_S;
  const Tensor count_E = at::zeros({num_experts}, expert_S.options()).index_add_(0, expert_S, at::ones_like(expert_S));
  out->end_E = count_E.cumsum(0).to(at::kInt);
  return out;
}

/// Calls visit(expert, first row, number of rows), the experts without rows included.
template <class Visit>
void visit_experts(const ExpertRows& rows, const Visit& visit) {
  std::int64_t begin = 0;
  for (std::size_t e = 0; e < rows.ends().size(); ++e) {
    const std::int64_t end = rows.ends()[e];
    visit(static_cast<std::int64_t>(e), begin, end - begin);
    begin = end;
  }
}

/// Rows that are worked on together: those of `expert`, or of all.
struct ExpertBlock {
  std::int64_t begin = 0, size = 0;
  std::optional<std::int64_t> expert = std::nullopt;
};

/// Calls visit(block) for all rows.
template <class Visit>
void visit_blocks(const ExpertRows& rows, const Visit& visit) {
  if (!rows.order_S.is_cpu()) return visit(ExpertBlock{.size = rows.order_S.size(0)});
  visit_experts(rows, [&](std::int64_t expert, std::int64_t begin, std::int64_t n) {
    if (n > 0) visit(ExpertBlock{begin, n, expert});
  });
}

/// All rows, each times its expert's matrix.
inline Tensor rows_product(const ExpertRows& rows, const Tensor& x_SI, const Tensor& weight_EIO) {
  if (takes_grouped_product(x_SI, weight_EIO, weight_EIO.size(0))) return grouped_product(x_SI, weight_EIO, rows.end_E);
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  const Tensor out_SO = at::empty({x_SI.size(0), weight_EIO.size(2)}, x_SI.options());
  visit_experts(rows, [&](std::int64_t e, std::int64_t begin, std::int64_t n) {
    Tensor out_nO = out_SO.narrow(0, begin, n);
    if (n > 0) at::mm_out(out_nO, x_SI.narrow(0, begin, n), weight_EIO.select(0, e));
  });
  return out_SO;
}

/// to_ND[token_n] += scale_n rows_nD; without scale where that is undefined. No token occurs twice.
template <class = void>
void add_rows(const Tensor& to_ND, const Tensor& token_n, const Tensor& rows_nD, const Tensor& scale_n = {}) {
  if (!takes_vectorized(rows_nD) || to_ND.scalar_type() != at::kFloat) {
    const Tensor wide = rows_nD.to(to_ND.scalar_type());
    to_ND.index_add_(0, token_n, scale_n.defined() ? wide * scale_n.unsqueeze(1) : wide);
    return;
  }
  const std::int64_t width = to_ND.size(1);
  const Tensor held_nD = rows_nD.contiguous(), held_n = scale_n.defined() ? scale_n.to(at::kFloat) : scale_n;
  visit_type(rows_nD.scalar_type(), [&]<class T>(T*) {
    const T* all_rows = held_nD.const_data_ptr<T>();
    float* all_to = to_ND.mutable_data_ptr<float>();
    const auto* tokens = token_n.const_data_ptr<std::int64_t>();
    const float* scales = held_n.defined() ? held_n.const_data_ptr<float>() : nullptr;
    vectorized(token_n.size(0), std::max<std::int64_t>(1, 8192 / width), [=](std::int64_t i, std::int64_t end) {
      for (; i < end; ++i) {
        float* to = all_to + tokens[i] * width;
        const T* row = all_rows + i * width;
        const float scale = scales == nullptr ? 1 : scales[i];
        for (std::int64_t c = 0; c < width; ++c) to[c] += scale * load(row[c]);
      }
    });
  });
}
KTO_COMPILED_ONCE(void add_rows<>(const Tensor&, const Tensor&, const Tensor&, const Tensor&));

/// Each token's row of to_ND grows by the block's rows of it, times scale_n where that is defined.
inline void add_to_tokens(const ExpertRows& rows, const ExpertBlock& block, const Tensor& to_ND, const Tensor& rows_nD,
                          const Tensor& scale_n = {}) {
  if (block.expert) return add_rows(to_ND, rows.token_S.narrow(0, block.begin, block.size), rows_nD, scale_n);
  // A token's rows side by side: sums are then the same each time.
  const Tensor row_of_place_S =
      at::empty_like(rows.order_S).scatter_(0, rows.order_S, at::arange(block.size, rows.order_S.options()));
  const auto by_token = [&](const Tensor& x) {
    return x.index_select(0, row_of_place_S).unflatten(0, {to_ND.size(0), rows.per_token});
  };
  Tensor parts_NKD = by_token(rows_nD);
  if (scale_n.defined()) parts_NKD = parts_NKD * by_token(scale_n).unsqueeze(-1);
  to_ND.add_(parts_NKD.sum(1, /*keepdim=*/false, to_ND.scalar_type()));
}

}  // namespace kto::detail
