// SPDX-License-Identifier: Apache-2.0
// DPO: Direct Preference Optimization, arXiv:2305.18290, equation 7. With r = log pi(y|x) - log pi_ref(y|x):
//   loss = -log sigmoid(beta (r_chosen - r_rejected))
// Use it as the baseline for paired rows.
#pragma once

#include "kto/loss/concept.hpp"

namespace kto {

struct Dpo {
  static constexpr BatchParts needs{.chosen_rejected = true};
  static constexpr std::string_view name = "dpo";
  static constexpr LossPaper paper{"DPO",
                                   "Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
                                   "2305.18290", "rafailov2023direct",
                                   "Rafael Rafailov and Archit Sharma and Eric Mitchell and Christopher D. Manning and "
                                   "Stefano Ermon and Chelsea Finn"};
  static constexpr std::string_view also_known_as = "sigmoid";  ///< in TRL's DPOTrainer
  static constexpr auto options() { return std::tuple{LossOption{"beta", &Dpo::beta, beta_help, above(0)}}; }
  double beta = 0.1;

  template <class Array>
  LossTerms<Array> operator()(const LossInput<Array>& in) const {
    using kto::log_sigmoid;
    const Array reward_B = beta * (in.policy_logp_B - in.reference_logp_B);
    const Array margin = chosen_half(reward_B) - rejected_half(reward_B);
    return {.loss_B = -log_sigmoid(margin), .reward_B = reward_B};
  }
};

}  // namespace kto
