// SPDX-License-Identifier: Apache-2.0
// The losses on Eigen arrays, without LibTorch: values worked by hand, and the properties of each formula.
#include "all_losses.hpp"
#include "catch.hpp"
#include "kto/loss/check.hpp"

namespace test_losses {

using Eigen::ArrayXd;

namespace {

ArrayXd array(std::initializer_list<double> list) {
  return Eigen::Map<const ArrayXd>(list.begin(), static_cast<Eigen::Index>(list.size()));
}

kto::LossInput<ArrayXd> input(std::initializer_list<double> log_ratios, std::initializer_list<double> signs,
                              double z0 = 0) {
  const ArrayXd reference = ArrayXd::LinSpaced(static_cast<Eigen::Index>(log_ratios.size()), -80, -20);
  return {.policy_logp_B = array(log_ratios) + reference,
          .reference_logp_B = reference,
          .sign_B = array(signs),
          .length_B = ArrayXd::Constant(reference.size(), 10),
          .baseline = z0};
}

double logistic(double x) { return 1 / (1 + std::exp(-x)); }

template <class Loss>
double loss_of(const Loss& loss, std::initializer_list<double> log_ratios, std::initializer_list<double> signs,
               double z0 = 0) {
  return loss(input(log_ratios, signs, z0)).loss_B[0];
}

/// A loss of one formula: `Formula{}(in)` gives its terms.
template <class Formula, kto::BatchParts parts = kto::BatchParts{}>
struct Formulated {
  static constexpr kto::BatchParts needs = parts;
  template <class Array>
  kto::LossTerms<Array> operator()(const kto::LossInput<Array>& in) const {
    return Formula{}(in);
  }
};

/// What check_loss says of `Formula`; empty: nothing is wrong with it.
template <kto::BatchParts parts = kto::BatchParts{}, class Formula>
std::string complaint(const Formula&, const kto::LossCheck& asked = {}) {
  try {
    kto::check_loss(Formulated<Formula, parts>{}, asked);
    return "";
  } catch (const kto::Error& error) {
    return error.what();
  }
}

ArrayXd reward_of(const kto::LossInput<ArrayXd>& in) { return 0.1 * (in.policy_logp_B - in.reference_logp_B); }

}  // namespace

TEST_CASE("check_loss passes every loss of the library, and names what is wrong with others") {
  using kto::sigmoid;
  using Input = kto::LossInput<ArrayXd>;
  using Terms = kto::LossTerms<ArrayXd>;
  for_each_loss([](const char* name, const auto& loss) {
    INFO(name);
    CHECK_NOTHROW(kto::check_loss(loss));
  });
  const auto good = [](const Input& in) {
    return Terms{.loss_B = 1 - sigmoid(in.sign_B * reward_of(in)), .reward_B = reward_of(in)};
  };
  CHECK(complaint(good).empty());

  const auto has = [](const std::string& text, std::initializer_list<const char*> parts) {
    INFO(text);
    for (const char* part : parts) CHECK(text.find(part) != std::string::npos);
  };
  has(complaint([](const Input& in) { return Terms{.loss_B = 1 - sigmoid(reward_of(in)), .reward_B = reward_of(in)}; }),
      {"check_loss(", "the gradient of loss_B by policy_logp_B is -0.025", "an undesirable row",
       "above 0, which lowers"});
  has(complaint([](const Input& in) {
        return Terms{.loss_B = sigmoid(in.sign_B * reward_of(in)), .reward_B = reward_of(in)};
      }),
      {"is 0.025 for a desirable row", "expected one below 0"});
  has(complaint([](const Input& in) {
        const ArrayXd reward_B = in.sign_B * reward_of(in);
        return Terms{.loss_B = 1 - sigmoid(reward_B), .reward_B = reward_B};
      }),
      {"reward_B changes by -0.1 a nat", "an undesirable row", "without the sign"});
  has(complaint([](const Input& in) {
        return Terms{.loss_B = -sigmoid(10 * in.sign_B * reward_of(in)).log(), .reward_B = reward_of(in)};
      }),
      {"loss_B is inf for", "log-ratio -1000 ", "log_sigmoid"});
  CHECK(complaint(
            [](const Input& in) {
              return Terms{.loss_B = -sigmoid(10 * in.sign_B * reward_of(in)).log(), .reward_B = reward_of(in)};
            },
            {.largest_log_ratio = 100})
            .empty());
  has(complaint([](const Input& in) {
        return Terms{.loss_B = (1 - sigmoid(in.sign_B * reward_of(in))).head(1), .reward_B = reward_of(in)};
      }),
      {"loss_B has 1 values for 4 rows, expected 4"});
  has(complaint<kto::BatchParts{.chosen_rejected = true}>(good), {"loss_B has 4 values", "expected 2, one a pair"});
  has(complaint<kto::BatchParts{.kl_pairs = true}>(good), {"{.kl_pairs = true}", "loss_B does not depend on"});
  has(complaint([](const Input& in) {
        return Terms{.loss_B = 1 - sigmoid(in.sign_B * (reward_of(in) - in.baseline)), .reward_B = reward_of(in)};
      }),
      {"loss_B depends on in.baseline"});
  const auto pushes_chosen_alone_down = [](const Input& in) {
    const ArrayXd reward_B = reward_of(in);
    return Terms{.loss_B = sigmoid(kto::chosen_half(reward_B)), .reward_B = reward_B};
  };
  has(complaint<kto::BatchParts{.chosen_rejected = true}>(pushes_chosen_alone_down), {"a desirable row", "below 0"});
  CHECK(complaint<kto::BatchParts{.chosen_rejected = true}>(pushes_chosen_alone_down, {.direction = false}).empty());
}

TEST_CASE("values worked by hand") {
  CHECK(loss_of(kto::Kto{.beta = 0.2}, {3}, {1}, 1.5) == Approx(1 - logistic(0.2 * 1.5)));
  CHECK(loss_of(kto::Kto{.beta = 0.2}, {3}, {-1}, 1.5) == Approx(1 - logistic(0.2 * -1.5)));
  CHECK(loss_of(kto::ApoZeroUnpaired{.beta = 0.1}, {3}, {1}) == Approx(1 - logistic(0.3)));
  CHECK(loss_of(kto::ApoZeroUnpaired{.beta = 0.1}, {3}, {-1}) == Approx(logistic(0.3)));
  CHECK(loss_of(kto::ApoZeroPaired{.beta = 0.1}, {3, -2}, {1, -1}) == Approx(1 - logistic(0.3) + logistic(-0.2)));
  CHECK(loss_of(kto::ApoDown{.beta = 0.1}, {3, -2}, {1, -1}) == Approx(logistic(0.3) + 1 - logistic(0.5)));
  CHECK(loss_of(kto::Dpo{.beta = 0.1}, {3, -2}, {1, -1}) == Approx(-std::log(logistic(0.5))));
  CHECK(loss_of(kto::Ipo{.beta = 0.5}, {3, -2}, {1, -1}) == Approx(0.25));  // (0.3 + 0.2 - 1)^2, lengths of 10
  CHECK(loss_of(kto::BcoUnpaired{.beta = 0.1, .delta = 0.05}, {3}, {-1}) == Approx(-std::log(logistic(-0.25))));
}

TEST_CASE("rewards are beta times the log-ratio, one a row, losses one a row or a pair") {
  for_each_loss([](const char* name, const auto& loss) {
    INFO(name);
    const auto in = some_input(loss.needs.chosen_rejected);
    const auto terms = loss(in);
    CHECK(terms.loss_B.size() == (loss.needs.chosen_rejected ? 2 : 4));
    CHECK((terms.reward_B - 0.3 * (in.policy_logp_B - in.reference_logp_B)).abs().maxCoeff() < 1e-12);
  });
}

TEST_CASE("at the reference: one half for KTO and APO-zero, one for pairs of them, log 2 for DPO and BCO") {
  for (const double sign : {1.0, -1.0}) {
    CHECK(loss_of(kto::Kto{}, {0}, {sign}) == 0.5);
    CHECK(loss_of(kto::ApoZeroUnpaired{}, {0}, {sign}) == 0.5);
    CHECK(loss_of(kto::BcoUnpaired{}, {0}, {sign}) == Approx(std::log(2.0)));
  }
  CHECK(loss_of(kto::ApoZeroPaired{}, {0, 0}, {1, -1}) == 1);
  CHECK(loss_of(kto::ApoDown{}, {0, 0}, {1, -1}) == 1);
  CHECK(loss_of(kto::Dpo{}, {0, 0}, {1, -1}) == Approx(std::log(2.0)));
}

TEST_CASE("bounds, and saturation at extreme log-ratios without NaN") {
  for (const double chosen : {-1e300, -1e4, 0.0, 1e4, 1e300})
    for (const double rejected : {-1e300, -1e4, 0.0, 1e4, 1e300}) {
      for_each_loss([&](const char* name, const auto& loss) {
        INFO(name << ' ' << chosen << ' ' << rejected);
        const auto terms = loss(input({chosen, rejected}, {1, -1}, 2));
        CHECK_FALSE(terms.loss_B.isNaN().any());
        CHECK((terms.loss_B >= 0).all());
      });
      CHECK((kto::Kto{}(input({chosen, rejected}, {1, -1}, 2)).loss_B <= 1).all());
      CHECK((kto::ApoDown{}(input({chosen, rejected}, {1, -1})).loss_B <= 2).all());
    }
}

TEST_CASE("monotonicity: losses fall as desirable rows gain and undesirable ones lose") {
  for (double x = -3; x < 3; x += 0.5) {
    for (const double sign : {1.0, -1.0}) {
      const double near = x, far = x + sign * 0.5;
      CHECK(loss_of(kto::Kto{}, {far}, {sign}, 0.3) < loss_of(kto::Kto{}, {near}, {sign}, 0.3));
      CHECK(loss_of(kto::ApoZeroUnpaired{}, {far}, {sign}) < loss_of(kto::ApoZeroUnpaired{}, {near}, {sign}));
      CHECK(loss_of(kto::BcoUnpaired{}, {far}, {sign}) < loss_of(kto::BcoUnpaired{}, {near}, {sign}));
    }
    CHECK(loss_of(kto::Dpo{}, {x + 0.5, 0}, {1, -1}) < loss_of(kto::Dpo{}, {x, 0}, {1, -1}));
    CHECK(loss_of(kto::ApoZeroPaired{}, {x + 0.5, 0}, {1, -1}) < loss_of(kto::ApoZeroPaired{}, {x, 0}, {1, -1}));
    CHECK(loss_of(kto::ApoDown{}, {x - 0.5, x - 0.5}, {1, -1}) < loss_of(kto::ApoDown{}, {x, x}, {1, -1}));
    CHECK(loss_of(kto::ApoDown{}, {0, x}, {1, -1}) < loss_of(kto::ApoDown{}, {0, x + 0.5}, {1, -1}));
  }
}

TEST_CASE("symmetry: KTO of an undesirable row is that of a desirable one mirrored at z0; DPO sees differences alone") {
  for (double x = -3; x < 3; x += 0.7) {
    CHECK(loss_of(kto::Kto{}, {1 + x}, {1}, 1) == Approx(loss_of(kto::Kto{}, {1 - x}, {-1}, 1)));
    CHECK(loss_of(kto::Dpo{}, {x, 0.5}, {1, -1}) == Approx(loss_of(kto::Dpo{}, {x + 9, 9.5}, {1, -1})));
  }
  CHECK(loss_of(kto::Ipo{.beta = 0.5}, {12, 2}, {1, -1}) ==
        Approx(0).margin(1e-12));  // its target: 1 / (2 beta) a token
}

TEST_CASE("BCO keeps the mean reward of all rows it has observed") {
  kto::BcoUnpaired loss{.beta = 0.5};
  loss.observe(input({2, 4}, {1, -1}));
  CHECK(loss.delta == Approx(1.5));
  loss.observe(input({-6}, {1}));
  CHECK(loss.delta == Approx(0));
  CHECK(loss.num_rows == 3);
}

TEST_CASE("halves of pairs are taken of expressions, too") {
  const ArrayXd x = array({1, 2, 3, 4});
  CHECK((kto::chosen_half(x - 1) == array({0, 1})).all());
  CHECK((kto::rejected_half(2 * x) == array({6, 8})).all());
}

TEST_CASE("functions for losses, on Eigen: NaN stays, infinities do not become one") {
  constexpr double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  for_each_array_function([&](const std::string& name, double, double, const auto& function) {
    INFO(name);
    CHECK_FALSE(function(array({-inf, -1e300, -800, 0, 800, 1e300, inf})).isNaN().any());
    CHECK((name.find("where") == 0 || std::isnan(function(array({nan}))[0])));
  });
  const auto in = some_input(false);
  CHECK_FALSE(EveryFunction{}(in).loss_B.isNaN().any());
  CHECK(kto::softplus(array({-800, 0, 21, 800}))[2] == Approx(21 + std::log1p(std::exp(-21.0))).epsilon(1e-15));
  CHECK(kto::log1p(array({1e-20}))[0] == 1e-20);
}

TEST_CASE("log_sigmoid is exact at both ends") {
  const ArrayXd y = kto::log_sigmoid(array({-800, -1e-9, 0, 40, 800}));
  CHECK(y[0] == -800);
  CHECK(y[2] == Approx(-std::log(2.0)));
  CHECK(y[3] == Approx(-std::exp(-40.0)));
  CHECK(y[4] == 0);
}

}  // namespace test_losses
