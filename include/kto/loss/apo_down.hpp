// SPDX-License-Identifier: Apache-2.0
// APO-down: Anchored Preference Optimization, arXiv:2408.06266, equation 8. With r = log pi(y|x) - log pi_ref(y|x):
//   loss = sigmoid(beta r_chosen) + (1 - sigmoid(beta (r_chosen - r_rejected)))
// Use it when the chosen completions are worse than what the model writes today: both go down, the rejected further.
#pragma once

#include "kto/loss/apo_zero.hpp"

namespace kto {

struct ApoDown {
  static constexpr BatchParts needs{.chosen_rejected = true};
  static constexpr std::string_view name = "apo_down";
  static constexpr LossPaper paper{"APO-down", apo_title, "2408.06266", apo_key, apo_authors};
  static constexpr auto options() { return std::tuple{LossOption{"beta", &ApoDown::beta, beta_help, above(0)}}; }
  double beta = 0.1;

  template <class Array>
  LossTerms<Array> operator()(const LossInput<Array>& in) const {
    using kto::sigmoid;
    const Array reward_B = beta * (in.policy_logp_B - in.reference_logp_B);
    const Array chosen = chosen_half(reward_B), margin = chosen - rejected_half(reward_B);
    return {.loss_B = sigmoid(chosen) + 1 - sigmoid(margin), .reward_B = reward_B};
  }
};

}  // namespace kto
