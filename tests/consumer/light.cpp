// SPDX-License-Identifier: Apache-2.0
// A user's program on kto::light: a loss on Eigen arrays, and text, without LibTorch. Exits with 0 where the values are
// right.
#include <kto/loss/kto.hpp>
#include <kto/text/chat_template.hpp>

int main() {
  const Eigen::ArrayXd zero = Eigen::ArrayXd::Zero(2), sign{{1, -1}};
  const auto terms = kto::Kto{.beta = 0.1}(kto::LossInput<Eigen::ArrayXd>{
      .policy_logp_B = zero, .reference_logp_B = zero, .sign_B = sign, .length_B = zero + 1, .baseline = 0});
  return (terms.loss_B == 0.5).all() && kto::ChatTemplate("{{ 1 + 1 }}").render(kto::Json::object()) == "2" ? 0 : 1;
}
