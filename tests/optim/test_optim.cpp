// SPDX-License-Identifier: Apache-2.0
#include <ATen/ops/allclose.h>
#include <ATen/ops/randn.h>

#include "catch.hpp"
#include "kto/optim/adamw.hpp"

namespace test_optim {

using at::Tensor;

namespace {

struct Two {
  Tensor weight = at::randn({3, 5}, at::kDouble).requires_grad_(true);
  Tensor norm = at::randn({7}, at::kDouble).requires_grad_(true);
  Tensor frozen = at::randn({2}, at::kDouble);
  kto::NamedTensors named_parameters() const {
    return {{"proj.weight", weight}, {"input_layernorm.weight", norm}, {"frozen", frozen}};
  }
};

Tensor loss(const Two& model) { return (model.weight.sin().sum() * 3 + model.norm.pow(2).sum()) * model.frozen.sum(); }

}  // namespace

TEST_CASE("flat parameters: views that keep their values and gather their gradients") {
  const Two model;
  const Tensor before = model.weight.detach().clone(), reference_loss = loss(model).detach();
  loss(model).backward();
  const Tensor want = model.weight.grad().clone(), want_norm = model.norm.grad().clone();

  auto flat = kto::flatten_parameters(model);
  REQUIRE(flat.groups.size() == 2);  // with and without weight decay
  CHECK(at::equal(model.weight, before));
  loss(model).backward();
  CHECK(at::equal(model.weight.grad(), want));
  CHECK(flat.grad_norm().item<double>() ==
        Approx(std::sqrt((want.square().sum() + want_norm.square().sum()).item<double>())).epsilon(1e-14));
  CHECK(flat.sum_of_squares_on_device(flat.groups[0]).item<double>() +
            flat.sum_of_squares_on_device(flat.groups[1]).item<double>() ==
        Approx((want.square().sum() + want_norm.square().sum()).item<double>()).epsilon(1e-14));
  flat.groups[0].values.mul_(2);
  flat.groups[1].values.mul_(2);
  CHECK(at::allclose(model.weight, before * 2));
  flat.zero_grad();
  CHECK_FALSE(model.weight.grad().defined());
}

TEST_CASE("nothing to train is an error") {
  Two model;
  model.weight.set_requires_grad(false);
  model.norm.set_requires_grad(false);
  CHECK_THROWS_WITH(kto::flatten_parameters(model), KTO_CONTAINS("nothing to train"));
}

TEST_CASE("AdamW with clipping against the published update, in float64") {
  const Two model;
  auto flat = kto::flatten_parameters(model);
  kto::AdamW optimizer{.beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-6, .weight_decay = 0.1};
  struct Plain {
    Tensor value, first, second;
    double decay;
  };
  std::vector<Plain> plain;
  for (const auto& [parameter, decay] : {std::pair{model.weight, 0.1}, {model.norm, 0.0}})
    plain.push_back(
        {parameter.detach().clone(), at::zeros_like(parameter).detach(), at::zeros_like(parameter).detach(), decay});
  for (int step = 1; step <= 4; ++step) {
    flat.zero_grad();
    loss(model).backward();
    const double divisor = 2.5, rate = 0.01 * step;
    const std::vector<Tensor> grads{model.weight.grad().clone(), model.norm.grad().clone()};
    optimizer.step(flat, {.learning_rate = rate, .grad_divisor = at::full({}, divisor, at::kFloat)});
    for (std::size_t i = 0; i < 2; ++i) {
      const Tensor grad = grads[i] / divisor;
      Plain& p = plain[i];
      p.value = p.value * (1 - rate * p.decay);
      p.first = 0.8 * p.first + 0.2 * grad;
      p.second = 0.95 * p.second + 0.05 * grad * grad;
      p.value = p.value -
                rate * (p.first / (1 - std::pow(0.8, step))) / ((p.second / (1 - std::pow(0.95, step))).sqrt() + 1e-6);
    }
    CHECK(at::allclose(model.weight, plain[0].value, 1e-6, 1e-8));
    CHECK(at::allclose(model.norm, plain[1].value, 1e-6, 1e-8));
  }
}

}  // namespace test_optim
