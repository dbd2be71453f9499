// SPDX-License-Identifier: Apache-2.0
// The scores taken from next-token distributions, and their full-softmax computation: the oracle of chunked.hpp, also
// used for models that return plain logits.
#pragma once

#include "kto/nn/affine.hpp"
#include "kto/nn/head.hpp"

namespace kto {

// Shapes: C scored tokens, V vocabulary, D width.

struct TokenScores {
  Tensor logp_C;        ///< log-prob of each scored token, float32 or wider; carries the gradient
  Tensor entropy_C;     ///< entropy of the distribution in nats, no gradient; undefined without statistics
  Tensor mean_logit_C;  ///< mean logit over the vocabulary, no gradient; undefined without statistics
};

namespace detail {

/// The type for log-probs: float64 if `tensor` is float64, else float32.
inline at::ScalarType wide(const Tensor& tensor) { return wide_type(tensor.scalar_type()); }

}  // namespace detail

/// logits_CV = head(hidden_CD), in float32 or wider.
inline Tensor head_logits(const Tensor& hidden_CD, const Head& head) {
  Tensor logits_CV = affine(hidden_CD, head.weight_VD, head.bias_V);
  logits_CV = logits_CV.to(detail::wide(logits_CV));
  if (head.scale != 1) logits_CV = logits_CV * head.scale;
  if (head.soft_cap > 0) logits_CV = head.soft_cap * at::tanh(logits_CV / head.soft_cap);
  return logits_CV;
}

/// Scores from full logits. `target_C`: int64 token ids. With `statistics`, also computes entropy and mean logit.
inline TokenScores full_token_scores(const Tensor& logits_CV, const Tensor& target_C, bool statistics) {
  const Tensor wide_CV = logits_CV.to(detail::wide(logits_CV));
  const Tensor log_softmax_CV = at::log_softmax(wide_CV, -1);
  TokenScores out;
  out.logp_C = log_softmax_CV.gather(-1, target_C.unsqueeze(-1)).squeeze(-1);
  if (statistics) {
    const Tensor log_softmax = log_softmax_CV.detach();
    out.entropy_C = -(log_softmax.exp() * log_softmax).sum(-1);
    out.mean_logit_C = wide_CV.detach().mean(-1);
  }
  return out;
}

}  // namespace kto
