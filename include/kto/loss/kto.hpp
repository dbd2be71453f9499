// SPDX-License-Identifier: Apache-2.0
// KTO: Model Alignment as Prospect Theoretic Optimization, arXiv:2402.01306, equations 7 and 8.
//   r = log pi(y|x) - log pi_ref(y|x),  z0 = max(0, KL estimate over mismatched pairs)
//   loss = 1 - sigmoid(beta (r - z0)) if y is desirable, 1 - sigmoid(beta (z0 - r)) if not
// The weights lambda_D and lambda_U are the trainer's (desirable_weight, undesirable_weight).
// Use it for rows that carry one thumb up or down each; the default.
#pragma once

#include "kto/loss/concept.hpp"

namespace kto {

struct Kto {
  static constexpr BatchParts needs{.kl_pairs = true};
  static constexpr std::string_view name = "kto";
  static constexpr LossPaper paper{
      "KTO", "KTO: Model Alignment as Prospect Theoretic Optimization", "2402.01306", "ethayarajh2024kto",
      "Kawin Ethayarajh and Winnie Xu and Niklas Muennighoff and Dan Jurafsky and Douwe Kiela"};
  static constexpr auto options() { return std::tuple{LossOption{"beta", &Kto::beta, beta_help, above(0)}}; }
  double beta = 0.1;

  template <class Array>
  LossTerms<Array> operator()(const LossInput<Array>& in) const {
    using kto::sigmoid;
    const Array log_ratio_B = in.policy_logp_B - in.reference_logp_B;
    return {.loss_B = 1 - sigmoid(beta * in.sign_B * (log_ratio_B - in.baseline)), .reward_B = beta * log_ratio_B};
  }
};

}  // namespace kto
