// SPDX-License-Identifier: Apache-2.0
// Your own loss: a hinge on the reward, with its own metric. Prints the reward margin on held-out rows before and after
// training (it rises), and the metric.
#include "toy.hpp"

struct Hinge {
  static constexpr kto::BatchParts needs{};
  double beta = 0.1;
  double aim = 1;  ///< rewards beyond +-aim have no gradient

  template <class Array>
  kto::LossTerms<Array> operator()(const kto::LossInput<Array>& in) const {
    using kto::relu;
    const Array reward_B = beta * (in.policy_logp_B - in.reference_logp_B);
    return {.loss_B = relu(aim - in.sign_B * reward_B), .reward_B = reward_B};
  }

  kto::NamedScalars<kto::Tensor> metrics(const kto::LossInput<kto::Tensor>&,
                                         const kto::LossTerms<kto::Tensor>& terms) const {
    return {{"my/share_of_rows_at_aim", (terms.loss_B == 0).to(at::kFloat).mean()}};
  }
};

int main() {
  try {
    toy::train_and_report("hinge", Hinge{.beta = 0.3});
    return 0;
  } catch (const std::exception& error) {
    return kto::report_error("custom_loss", error);
  }
}
