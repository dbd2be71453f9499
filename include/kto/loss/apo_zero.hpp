// SPDX-License-Identifier: Apache-2.0
// APO-zero: Anchored Preference Optimization, arXiv:2408.06266, equation 7. With r = log pi(y|x) - log pi_ref(y|x):
//   paired     loss = (1 - sigmoid(beta r_chosen)) + sigmoid(beta r_rejected)
//   unpaired   the same, each row by itself
// Use it when the chosen completions are better than what the model writes today. Needs no KL baseline.
#pragma once

#include "kto/loss/concept.hpp"

namespace kto {

/// Of the paper of APO-zero and APO-down: its key in BibTeX.
inline constexpr std::string_view apo_key = "doosterlinck2024anchored";
/// Its authors.
inline constexpr std::string_view apo_authors =
    "Karel D'Oosterlinck and Winnie Xu and Chris Develder and Thomas Demeester and Amanpreet Singh and Christopher "
    "Potts "
    "and Douwe Kiela and Shikib Mehri";
/// Its title.
inline constexpr std::string_view apo_title =
    "Anchored Preference Optimization and Contrastive Revisions: Addressing Underspecification in Alignment";

struct ApoZeroUnpaired {
  static constexpr BatchParts needs{};
  static constexpr std::string_view name = "apo_zero_unpaired";
  static constexpr LossPaper paper{"APO-zero", apo_title, "2408.06266", apo_key, apo_authors};
  static constexpr auto options() {
    return std::tuple{LossOption{"beta", &ApoZeroUnpaired::beta, beta_help, above(0)}};
  }
  double beta = 0.1;

  template <class Array>
  LossTerms<Array> operator()(const LossInput<Array>& in) const {
    using kto::sigmoid;
    const Array reward_B = beta * (in.policy_logp_B - in.reference_logp_B);
    return {.loss_B = 1 - sigmoid(in.sign_B * reward_B), .reward_B = reward_B};
  }
};

struct ApoZeroPaired {
  static constexpr BatchParts needs{.chosen_rejected = true};
  static constexpr std::string_view name = "apo_zero";
  static constexpr LossPaper paper{"APO-zero", apo_title, "2408.06266", apo_key, apo_authors};
  static constexpr auto options() { return std::tuple{LossOption{"beta", &ApoZeroPaired::beta, beta_help, above(0)}}; }
  double beta = 0.1;

  template <class Array>
  LossTerms<Array> operator()(const LossInput<Array>& in) const {
    using kto::sigmoid;
    const Array reward_B = beta * (in.policy_logp_B - in.reference_logp_B);
    const Array chosen = chosen_half(reward_B), rejected = rejected_half(reward_B);
    return {.loss_B = 1 - sigmoid(chosen) + sigmoid(rejected), .reward_B = reward_B};
  }
};

}  // namespace kto
