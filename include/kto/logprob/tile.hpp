// SPDX-License-Identifier: Apache-2.0
// The two operations of chunked.hpp on a tile of logits, each in one pass: a kernel for float32 on the CPU, and the
// same with LibTorch's operators, which is its oracle and serves other devices.
#pragma once

#include <cmath>
#include <limits>
#include <optional>

#include "kto/core/vectorized.hpp"
#include "kto/logprob/token_scores.hpp"

namespace kto::detail {

// Shapes: c tokens of a block, v columns of a vocabulary slice that begins at column `first`.

/// The running statistics of a block's distributions after some slices, one number per token.
struct RunningScores {
  Tensor target_logit_c;    ///< 0 until the target's slice is reached
  Tensor max_c, exp_sum_c;  ///< a number m near the maximum, and sum of exp(z - m)
  Tensor exp_logit_sum_c;   ///< sum of exp(z - m) z; undefined without statistics
  Tensor logit_sum_c;       ///< sum of z; likewise

  RunningScores(std::int64_t size, bool statistics, const at::TensorOptions& options)
      : target_logit_c(at::zeros({size}, options)),
        max_c(at::full({size}, -std::numeric_limits<double>::infinity(), options)),
        exp_sum_c(at::zeros({size}, options)),
        exp_logit_sum_c(statistics ? at::zeros({size}, options) : Tensor()),
        logit_sum_c(statistics ? at::zeros({size}, options) : Tensor()) {}
};

/// Where the targets of a block are in a vocabulary slice: the column (0 if outside) and whether it is inside.
struct TargetsInSlice {
  Tensor column_c1, inside_c;
  TargetsInSlice(const Tensor& target_c, std::int64_t first, std::int64_t width) {
    const Tensor column_c = target_c - first;
    inside_c = (column_c >= 0).logical_and_(column_c < width);
    column_c1 = (column_c * inside_c).unsqueeze(-1);
  }
};

/// The logits of the targets, before scale and soft cap, in float32 or wider. The weights are first rounded to the type
/// of the states.
template <class = void>
Tensor target_logits(const Tensor& hidden_cD, const Tensor& weight_VD, const Tensor& target_c) {
  const auto type = hidden_cD.scalar_type(), weight_type = weight_VD.scalar_type();
  if (!takes_vectorized(hidden_cD) || (weight_type != type && weight_type != at::kFloat))
    return (hidden_cD.to(wide(hidden_cD)) * weight_VD.index_select(0, target_c).to(type).to(wide(hidden_cD))).sum(-1);
  const Tensor held_cD = hidden_cD.contiguous(), held_VD = weight_VD.contiguous(), ids_c = target_c.contiguous();
  const Tensor out_c = at::empty(ids_c.sizes(), hidden_cD.options().dtype(at::kFloat));
  const std::int64_t width = held_cD.size(1);
  const std::int64_t* ids = ids_c.const_data_ptr<std::int64_t>();
  float* out = out_c.mutable_data_ptr<float>();
  visit_types(type, weight_type, [&]<class T, class W>(T*, W*) {
    const T* hidden = held_cD.const_data_ptr<T>();
    const W* weight = held_VD.const_data_ptr<W>();
    vectorized(held_cD.size(0), 16, [=](std::int64_t c, std::int64_t end) {
      for (; c < end; ++c) {
        const T* h = hidden + c * width;
        const W* w = weight + ids[c] * width;
        out[c] = vector_sum(width, [&](std::int64_t i) { return load(h[i]) * rounded_to<T>(load(w[i])); });
      }
    });
  });
  return out_c;
}
KTO_COMPILED_ONCE(Tensor target_logits<>(const Tensor&, const Tensor&, const Tensor&));

/// Writes `logit_c` to the targets' columns of a slice of logits.
inline void set_targets(const Tensor& logits_cv, const Tensor& logit_c, const Tensor& target_c, std::int64_t first) {
  const TargetsInSlice at(target_c, first, logits_cv.size(1));
  const Tensor kept_c = logits_cv.select(-1, 0);  // if the target is elsewhere, column 0 keeps its value
  logits_cv.scatter_(-1, at.column_c1, at::where(at.inside_c, logit_c, kept_c).unsqueeze(-1));
}

inline void add_tile_composed(RunningScores& scores, const Tensor& logits_cv, const Tensor& target_c,
                              std::int64_t first) {
  const TargetsInSlice at(target_c, first, logits_cv.size(1));
  const auto column_of = [&](const Tensor& tensor_cv) { return tensor_cv.gather(-1, at.column_c1).squeeze(-1); };
  // One kernel reads the tile for its log-probs; they give the rest of the slice's statistics.
  const Tensor logp_cv = at::log_softmax(logits_cv, -1), logit_c = column_of(logits_cv);
  const Tensor log_sum_c = logit_c - column_of(logp_cv), max_c = at::maximum(scores.max_c, log_sum_c);
  const Tensor shrink_c = (scores.max_c - max_c).exp_(), share_c = (log_sum_c - max_c).exp_();
  scores.target_logit_c.add_(logit_c * at.inside_c);
  scores.exp_sum_c.mul_(shrink_c).add_(share_c);
  if (scores.logit_sum_c.defined()) {
    const Tensor mean_logit_c = log_sum_c + logp_cv.exp().mul_(logp_cv).sum(-1);  // under the slice's distribution
    scores.exp_logit_sum_c.mul_(shrink_c).add_(share_c * mean_logit_c);
    scores.logit_sum_c.add_(logits_cv.sum(-1));
  }
  scores.max_c.copy_(max_c);
}

/// Adds the slice [first, first + v) of a block's logits to its scores.
template <class = void>
void add_tile(RunningScores& scores, const Tensor& logits_cv, const Tensor& target_c, std::int64_t first) {
  if (!logits_cv.is_cpu() || logits_cv.scalar_type() != at::kFloat)
    return add_tile_composed(scores, logits_cv, target_c, first);
  const Tensor held_cv = logits_cv.contiguous(), ids_c = target_c.contiguous();
  const std::int64_t width = held_cv.size(1);
  const bool statistics = scores.logit_sum_c.defined();
  const float* logits = held_cv.const_data_ptr<float>();
  const std::int64_t* ids = ids_c.const_data_ptr<std::int64_t>();
  float *target = scores.target_logit_c.mutable_data_ptr<float>(), *max = scores.max_c.mutable_data_ptr<float>(),
        *exp_sum = scores.exp_sum_c.mutable_data_ptr<float>();
  float* exp_logit_sum = statistics ? scores.exp_logit_sum_c.mutable_data_ptr<float>() : nullptr;
  float* logit_sum = statistics ? scores.logit_sum_c.mutable_data_ptr<float>() : nullptr;
  vectorized(held_cv.size(0), 1, [=](std::int64_t c, std::int64_t end) {
    for (; c < end; ++c) {
      const float* z = logits + c * width;
      if (ids[c] >= first && ids[c] < first + width) target[c] += z[ids[c] - first];
      const float tile_max = vector_max(width, [&](std::int64_t i) { return z[i]; });
      const float new_max = tile_max > max[c] ? tile_max : max[c];
      const float shrink = std::exp(max[c] - new_max);
      max[c] = new_max;
      exp_sum[c] = exp_sum[c] * shrink + vector_sum(width, [&](std::int64_t i) { return vector_exp(z[i] - new_max); });
      if (!statistics) continue;
      exp_logit_sum[c] = exp_logit_sum[c] * shrink +
                         vector_sum(width, [&](std::int64_t i) { return vector_exp(z[i] - new_max) * z[i]; });
      logit_sum[c] += vector_sum(width, [&](std::int64_t i) { return z[i]; });
    }
  });
}
KTO_COMPILED_ONCE(void add_tile<>(RunningScores&, const Tensor&, const Tensor&, std::int64_t));

inline void tile_gradient_composed(const Tensor& logits_cv, const Tensor& log_sum_c, const Tensor& target_c,
                                   const Tensor& grad_c, std::int64_t first) {
  const TargetsInSlice at(target_c, first, logits_cv.size(1));
  const Tensor grad_c1 = grad_c.unsqueeze(-1);
  logits_cv.sub_(log_sum_c.unsqueeze(-1)).exp_().mul_(-grad_c1);
  logits_cv.scatter_add_(-1, at.column_c1, grad_c1 * at.inside_c.unsqueeze(-1));
}

/// Overwrites a tile of logits with grad_c times the gradient of each token's log-prob: 1[v = target] - softmax(z).
template <class = void>
void tile_gradient(const Tensor& logits_cv, const Tensor& log_sum_c, const Tensor& target_c, const Tensor& grad_c,
                   std::int64_t first) {
  if (!logits_cv.is_cpu() || logits_cv.scalar_type() != at::kFloat || !logits_cv.is_contiguous())
    return tile_gradient_composed(logits_cv, log_sum_c, target_c, grad_c, first);
  const Tensor ids_c = target_c.contiguous(), sums_c = log_sum_c.contiguous(), grads_c = grad_c.contiguous();
  const std::int64_t width = logits_cv.size(1);
  float* logits = logits_cv.mutable_data_ptr<float>();
  const std::int64_t* ids = ids_c.const_data_ptr<std::int64_t>();
  const float *log_sum = sums_c.const_data_ptr<float>(), *grad = grads_c.const_data_ptr<float>();
  vectorized(logits_cv.size(0), 1, [=](std::int64_t c, std::int64_t end) {
    for (; c < end; ++c) {
      float* z = logits + c * width;
      for (std::int64_t i = 0; i < width; ++i) z[i] = -grad[c] * vector_exp(z[i] - log_sum[c]);
      if (ids[c] >= first && ids[c] < first + width) z[ids[c] - first] += grad[c];
    }
  });
}
KTO_COMPILED_ONCE(void tile_gradient<>(const Tensor&, const Tensor&, const Tensor&, const Tensor&, std::int64_t));

}  // namespace kto::detail
