// SPDX-License-Identifier: Apache-2.0
// BCO, unpaired: Binary Classifier Optimization, arXiv:2404.04656. With reward = beta (log pi(y|x) - log pi_ref(y|x)):
//   loss = -log sigmoid(reward - delta) if y is desirable, -log sigmoid(delta - reward) if not
// where delta is the mean reward over all rows seen so far in training, this batch included: the loss owns that state.
// Use it like KTO; its shift needs no KL pairs.
#pragma once

#include "kto/loss/concept.hpp"

namespace kto {

struct BcoUnpaired {
  static constexpr BatchParts needs{};
  static constexpr std::string_view name = "bco";
  static constexpr LossPaper paper{"BCO", "Binary Classifier Optimization for Large Language Model Alignment",
                                   "2404.04656", "jung2024binary",
                                   "Seungjae Jung and Gunsoo Han and Daniel Wontae Nam and Kyoung-Woon On"};
  static constexpr auto options() { return std::tuple{LossOption{"beta", &BcoUnpaired::beta, beta_help, above(0)}}; }
  double beta = 0.1;
  double delta = 0;     ///< running mean of the rewards
  double num_rows = 0;  ///< rows that delta is the mean of

  template <class Archive>
  void visit_state(Archive& archive) {
    archive("delta", delta);
    archive("num_rows", num_rows);
  }

  template <class Array>
  void observe(const LossInput<Array>& in) {
    const Array log_ratio_B = in.policy_logp_B - in.reference_logp_B;
    double mean = 0, rows = 0;
    if constexpr (requires { log_ratio_B.detach(); }) {
      mean = beta * log_ratio_B.detach().mean().template item<double>();
      rows = static_cast<double>(log_ratio_B.numel());
    } else {
      mean = beta * static_cast<double>(log_ratio_B.mean());
      rows = static_cast<double>(log_ratio_B.size());
    }
    num_rows += rows;
    delta += (mean - delta) * rows / num_rows;
  }

  template <class Array>
  LossTerms<Array> operator()(const LossInput<Array>& in) const {
    using kto::log_sigmoid;
    const Array reward_B = beta * (in.policy_logp_B - in.reference_logp_B);
    return {.loss_B = -log_sigmoid(in.sign_B * (reward_B - delta)), .reward_B = reward_B};
  }
};

}  // namespace kto
