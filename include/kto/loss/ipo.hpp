// SPDX-License-Identifier: Apache-2.0
// IPO: A General Theoretical Paradigm to Understand Learning from Human Preferences, arXiv:2310.12036, equation 17,
// with log-ratios averaged over the completion's tokens, as its authors ran it:
//   loss = (r_chosen / n_chosen - r_rejected / n_rejected - 1 / (2 beta))^2,  r = log pi(y|x) - log pi_ref(y|x)
// Use it for paired rows whose preferences are nearly deterministic: its target is a margin, not an infinite one.
#pragma once

#include "kto/loss/concept.hpp"

namespace kto {

struct Ipo {
  static constexpr BatchParts needs{.chosen_rejected = true};
  static constexpr std::string_view name = "ipo";
  static constexpr LossPaper paper{"IPO",
                                   "A General Theoretical Paradigm to Understand Learning from Human Preferences",
                                   "2310.12036", "azar2023general",
                                   "Mohammad Gheshlaghi Azar and Mark Rowland and Bilal Piot and Daniel Guo and "
                                   "Daniele Calandriello and Michal Valko "
                                   "and R{\\'e}mi Munos"};
  static constexpr auto options() {
    return std::tuple{
        LossOption{"beta", &Ipo::beta, "the paper's tau: the margin aimed at is 1 / (2 beta) nats a token", above(0)}};
  }
  double beta = 0.1;

  template <class Array>
  LossTerms<Array> operator()(const LossInput<Array>& in) const {
    const Array log_ratio_B = in.policy_logp_B - in.reference_logp_B;
    const Array mean_B = log_ratio_B / in.length_B;
    const Array distance = chosen_half(mean_B) - rejected_half(mean_B) - 1 / (2 * beta);
    return {.loss_B = distance * distance, .reward_B = beta * log_ratio_B};
  }
};

}  // namespace kto
