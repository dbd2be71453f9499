// SPDX-License-Identifier: Apache-2.0
// The losses on tensors: the Eigen run in double is the oracle of values, its finite differences that of autograd.
#include <ATen/ops/allclose.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/linspace.h>

#include "../all_losses.hpp"
#include "catch.hpp"
#include "kto/loss/check.hpp"

namespace test_losses_tensor {

using Eigen::ArrayXd;
using Eigen::ArrayXf;
using kto::Tensor;

namespace {

Tensor tensor(const ArrayXd& values, at::ScalarType dtype = at::kDouble) {
  return at::tensor(at::ArrayRef<double>(values.data(), static_cast<std::size_t>(values.size())), at::kDouble)
      .to(dtype);
}

template <class Loss>
double weighted_loss(const Loss& loss, const kto::LossInput<ArrayXd>& in) {
  const ArrayXd losses = loss(in).loss_B;
  return (losses * ArrayXd::LinSpaced(losses.size(), 1, 2)).sum();
}

/// A loss with something wrong on tensors, which Eigen arrays do not show.
enum class Wrong { nothing, value, detached, half_detached, gradient_at_extremes, shape };
template <Wrong wrong>
struct WrongOnTensors {
  static constexpr kto::BatchParts needs{};
  static constexpr std::string_view name = "wrong";

  template <class Array>
  kto::LossTerms<Array> operator()(const kto::LossInput<Array>& in) const {
    using namespace kto;
    const Array reward_B = 0.1 * (in.policy_logp_B - in.reference_logp_B);
    const Array loss_B = 1 - sigmoid(in.sign_B * reward_B);
    const Array left_out_B = where(reward_B > 500, 0, sigmoid(in.sign_B * reward_B));
    if constexpr (wrong == Wrong::gradient_at_extremes)  // sqrt(0), whose slope is infinite, times a slope of 0
      return {.loss_B = loss_B + 0 * left_out_B.sqrt(), .reward_B = reward_B};
    if constexpr (std::is_same_v<Array, Tensor>) {
      if constexpr (wrong == Wrong::value) return {.loss_B = loss_B + 0.01, .reward_B = reward_B};
      if constexpr (wrong == Wrong::detached) return {.loss_B = loss_B.detach(), .reward_B = reward_B};
      if constexpr (wrong == Wrong::half_detached)
        return {.loss_B = (loss_B + loss_B.detach()) / 2, .reward_B = reward_B};
      if constexpr (wrong == Wrong::shape) return {.loss_B = loss_B.sum(), .reward_B = reward_B};
    }
    return {.loss_B = loss_B, .reward_B = reward_B};
  }
};

template <Wrong wrong>
std::string complaint() {
  constexpr bool with_tensors = true;
  CHECK_NOTHROW(kto::check_loss<WrongOnTensors<wrong>, !with_tensors>({}));
  try {
    kto::check_loss(WrongOnTensors<wrong>{});
    return "";
  } catch (const kto::Error& error) {
    return error.what();
  }
}

}  // namespace

TEST_CASE("check_loss also runs a loss on tensors where LibTorch is included") {
  for_each_loss([](const char* name, const auto& loss) {
    INFO(name);
    CHECK_NOTHROW(kto::check_loss(loss));
  });
  const auto has = [](const std::string& text, std::initializer_list<const char*> parts) {
    INFO(text);
    for (const char* part : parts) CHECK(text.find(part) != std::string::npos);
  };
  CHECK(complaint<Wrong::nothing>().empty());
  has(complaint<Wrong::value>(), {"check_loss(wrong): loss_B on tensors is 0.", "on Eigen arrays 0."});
  has(complaint<Wrong::detached>(), {"loss_B on tensors has no gradient"});
  has(complaint<Wrong::half_detached>(), {"the gradient of loss_B", "in autograd", "in finite differences"});
  has(complaint<Wrong::gradient_at_extremes>(), {"the gradient of loss_B by policy_logp_B is NaN"});
  has(complaint<Wrong::shape>(), {"loss_B on tensors has shape [], expected [4]"});
}

TEST_CASE("tensor losses equal the Eigen ones; their gradients equal finite differences") {
  const auto same = [](const char* name, const auto& loss) {
    INFO(name);
    const auto in = some_input(loss.needs.chosen_rejected);
    const Tensor policy_B = tensor(in.policy_logp_B).requires_grad_(true);
    const auto terms = loss(kto::LossInput<Tensor>{.policy_logp_B = policy_B,
                                                   .reference_logp_B = tensor(in.reference_logp_B),
                                                   .sign_B = tensor(in.sign_B),
                                                   .length_B = tensor(in.length_B),
                                                   .baseline = at::scalar_tensor(in.baseline, at::kDouble)});
    const auto want = loss(in);
    CHECK(at::allclose(terms.loss_B, tensor(want.loss_B), 1e-13, 1e-14));
    CHECK(at::allclose(terms.reward_B, tensor(want.reward_B), 1e-13, 1e-14));

    (terms.loss_B * at::linspace(1, 2, terms.loss_B.numel(), at::kDouble)).sum().backward();
    ArrayXd gradient(in.policy_logp_B.size());
    for (Eigen::Index i = 0; i < gradient.size(); ++i) {
      auto above = in, below = in;
      const double step = 1e-5;
      above.policy_logp_B[i] += step;
      below.policy_logp_B[i] -= step;
      gradient[i] = (weighted_loss(loss, above) - weighted_loss(loss, below)) / (2 * step);
    }
    CHECK(at::allclose(policy_B.grad(), tensor(gradient), 1e-7, 1e-9));
  };
  for_each_loss(same);
  same("every function", EveryFunction{});
}

TEST_CASE("functions for losses: tensors and Eigen arrays agree in value and slope, at extremes too") {
  constexpr double inf = std::numeric_limits<double>::infinity();
  const ArrayXd points{
      {-inf, -1e300, -1e5, -800, -50, -20.5, -3,  -0.4,  1e-3, 0.7,
       2.5,  8,      19,   21,   50,  800,   1e5, 1e300, inf,  std::numeric_limits<double>::quiet_NaN()}};
  for_each_array_function([&](const std::string& name, double low, double high, const auto& function) {
    INFO(name);
    const Tensor x = tensor(points).requires_grad_(true);
    const Tensor y = function(x);
    const double slack = name == "softplus" ? 2.1e-9 : 1e-14;  // see kto/loss/array.hpp
    CHECK(at::allclose(y, tensor(function(points)), 1e-13, slack, /*equal_nan=*/true));
    CHECK((name.find("where") == 0 || std::isnan(y[-1].item<double>())));
    y.sum().backward();
    const ArrayXd above = function(ArrayXd(points + 1e-6)), below = function(ArrayXd(points - 1e-6));
    for (Eigen::Index i = 0; i < points.size(); ++i) {
      if (points[i] < low || points[i] > high || std::isnan(points[i])) continue;
      INFO(points[i]);
      CHECK(x.grad()[i].item<double>() == Approx((above[i] - below[i]) / 2e-6).epsilon(1e-5).margin(2e-5));
    }
    const ArrayXf narrow = points.template cast<float>();
    const Tensor narrow_y =
        function(at::tensor(at::ArrayRef<float>(narrow.data(), static_cast<std::size_t>(narrow.size()))));
    CHECK(narrow_y.scalar_type() == at::kFloat);
    CHECK(function(narrow).isNaN().count() == at::isnan(narrow_y).sum().template item<std::int64_t>());
  });
}

TEST_CASE("extreme log-ratios: gradients of tensor losses are finite in float32") {
  for_each_loss([](const char* name, const auto& loss) {
    if (std::string(name) == "ipo") return;  // a square: it has no saturation
    for (const double extreme : {-1e5, 1e5}) {
      INFO(name << ' ' << extreme);
      const Tensor policy_B = at::full({4}, extreme, at::kFloat).requires_grad_(true);
      const Tensor sign_B =
          loss.needs.chosen_rejected ? at::tensor({1.f, 1.f, -1.f, -1.f}) : at::tensor({1.f, -1.f, 1.f, -1.f});
      const auto terms = loss(kto::LossInput<Tensor>{.policy_logp_B = policy_B,
                                                     .reference_logp_B = at::zeros({4}),
                                                     .sign_B = sign_B,
                                                     .length_B = at::ones({4}),
                                                     .baseline = at::scalar_tensor(0.5, at::kFloat)});
      terms.loss_B.sum().backward();
      const Tensor loss_B = terms.loss_B;
      CHECK(at::isfinite(loss_B).all().item<bool>());
      CHECK(at::isfinite(policy_B.grad()).all().item<bool>());
    }
  });
}

}  // namespace test_losses_tensor
