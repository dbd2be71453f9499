// SPDX-License-Identifier: Apache-2.0
// The losses on Eigen arrays, without LibTorch: values worked by hand, gradients by finite differences, properties.
#include "catch.hpp"
#include "kto/loss/apo_zero.hpp"
#include "kto/loss/kto.hpp"

using Eigen::ArrayXd;

namespace {

kto::LossInput<ArrayXd> input(std::initializer_list<double> log_ratios, std::initializer_list<double> signs,
                              double z0) {
  const auto array = [](std::initializer_list<double> list) {
    return ArrayXd(Eigen::Map<const ArrayXd>(list.begin(), static_cast<Eigen::Index>(list.size())));
  };
  const ArrayXd reference = ArrayXd::LinSpaced(static_cast<Eigen::Index>(log_ratios.size()), -80, -20);
  return {.policy_logp_B = array(log_ratios) + reference,
          .reference_logp_B = reference,
          .sign_B = array(signs),
          .baseline = z0};
}

double logistic(double x) { return 1 / (1 + std::exp(-x)); }

}  // namespace

TEST_CASE("KTO: equation 7 row by row") {
  const auto terms = kto::Kto{.beta = 0.2}(input({3, 3, -5}, {1, -1, -1}, 1.5));
  CHECK(terms.loss_B[0] == Approx(1 - logistic(0.2 * 1.5)));
  CHECK(terms.loss_B[1] == Approx(1 - logistic(0.2 * -1.5)));
  CHECK(terms.loss_B[2] == Approx(1 - logistic(0.2 * 6.5)));
  CHECK(terms.reward_B[2] == Approx(-1.0));
}

TEST_CASE("APO-zero: 1 - sigmoid for desirable rows, sigmoid for the others") {
  const auto terms = kto::ApoZeroUnpaired{.beta = 0.1}(input({3, 3}, {1, -1}, 0));
  CHECK(terms.loss_B[0] == Approx(1 - logistic(0.3)));
  CHECK(terms.loss_B[1] == Approx(logistic(0.3)));
}

TEST_CASE("at the reference every loss is one half and every reward zero") {
  for (const double sign : {1.0, -1.0}) {
    CHECK(kto::Kto{}(input({0}, {sign}, 0)).loss_B[0] == 0.5);
    CHECK(kto::ApoZeroUnpaired{}(input({0}, {sign}, 0)).loss_B[0] == 0.5);
    CHECK(kto::Kto{}(input({0}, {sign}, 0)).reward_B[0] == 0);
  }
}

TEST_CASE("extreme log-ratios saturate without NaN, and losses fall as the row is learnt") {
  for (const double extreme : {1e4, -1e4, 1e300, -1e300}) {
    const auto in = input({extreme, extreme}, {1, -1}, 2);
    const auto kto_terms = kto::Kto{}(in);
    const auto apo_terms = kto::ApoZeroUnpaired{}(in);
    CHECK(kto_terms.loss_B[0] == (extreme > 0 ? 0 : 1));
    CHECK(kto_terms.loss_B[1] == (extreme > 0 ? 1 : 0));
    CHECK(apo_terms.loss_B[0] == (extreme > 0 ? 0 : 1));
  }
  const auto rising = kto::Kto{}(input({-2, -1, 0, 1, 2}, {1, 1, 1, 1, 1}, 0.3)).loss_B;
  for (Eigen::Index i = 1; i < 5; ++i) CHECK(rising[i] < rising[i - 1]);
  const auto falling = kto::Kto{}(input({-2, -1, 0, 1, 2}, {-1, -1, -1, -1, -1}, 0.3)).loss_B;
  for (Eigen::Index i = 1; i < 5; ++i) CHECK(falling[i] > falling[i - 1]);
}
