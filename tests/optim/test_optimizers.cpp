// SPDX-License-Identifier: Apache-2.0
// Optimizers against the updates that tests/golden/optim/make_optimizers.py recorded from torch and transformers.
#include <ATen/ops/allclose.h>
#include <ATen/ops/randn.h>

#include <set>

#include "catch.hpp"
#include "kto/cli/optimizer.hpp"

namespace test_optimizers {

using namespace kto;
using namespace kto::cli;

namespace {

struct Two {
  Tensor weight, norm;
  NamedTensors named_parameters() const { return {{"proj.weight", weight}, {"input_layernorm.weight", norm}}; }
};

Tensor tensor(const Json& values) {
  std::vector<double> flat;
  for (const Json& value : values) {
    if (value.is_array())
      for (const Json& inner : value) flat.push_back(inner);
    else
      flat.push_back(value);
  }
  const Tensor out = at::tensor(at::ArrayRef<double>(flat), at::kDouble);
  return values[0].is_array() ? out.view({static_cast<std::int64_t>(values.size()), -1}) : out;
}

AnyOptimizer optimizer(const std::string& name, const Json& optim_args, double weight_decay) {
  ScriptConfig script;
  TrainConfig train;
  train.weight_decay = weight_decay;
  const auto* row = find_option(script_options(), "optim");
  assign(script_options(), *row, script, name, "optim");
  if (optim_args.is_string()) script.optim_args = optim_args.get<std::string>();
  return make_any_optimizer(script, train);
}

std::string refusal(const std::string& name, const std::string& optim_args) {
  try {
    optimizer(name, optim_args, 0);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("every optimizer gives torch's and transformers' values, with and without weight decay") {
  const Json golden = read_json(std::string(KTO_SOURCE_DIR) + "/tests/golden/optim/optimizers.json");
  std::set<std::string> seen;
  for (const Json& recorded : golden["cases"]) {
    INFO(recorded["optim"] << " " << recorded["optim_args"] << " " << recorded["weight_decay"]);
    for (const bool clipped : {false, true}) {
      const Two model{tensor(golden["start"][0]).requires_grad_(true), tensor(golden["start"][1]).requires_grad_(true)};
      FlatParameters flat = flatten_parameters(model);
      AnyOptimizer used = optimizer(recorded["optim"], recorded["optim_args"], recorded["weight_decay"]);
      for (std::size_t i = 0; i < golden["rates"].size(); ++i) {
        const double divisor = clipped ? 2 : 1;
        model.weight.mutable_grad() = tensor(golden["grads"][i][0]) * divisor;
        model.norm.mutable_grad() = tensor(golden["grads"][i][1]) * divisor;
        used.step(flat, {.learning_rate = golden["rates"][i],
                         .grad_divisor = clipped ? at::full({}, divisor, at::kFloat) : Tensor()});
      }
      CHECK(at::allclose(model.weight.detach(), tensor(recorded["weight"]), 1e-9, 1e-12));
      CHECK(at::allclose(model.norm.detach(), tensor(recorded["norm"]), 1e-9, 1e-12));
      seen.insert(recorded["optim"]);
    }
  }
  CHECK(seen.size() == 6);
}

TEST_CASE("optim_args that do not belong, or say nothing, are refused") {
  CHECK(refusal("sgd", "momentun=0.9") ==
        "optim_args: sgd has no argument \"momentun\"; it has momentum, dampening, nesterov");
  CHECK_THAT(refusal("sgd", "momentum"), KTO_CONTAINS("expected name=value"));
  CHECK_THAT(refusal("sgd", "momentum=high"), KTO_CONTAINS("momentum: expected a number"));
  CHECK_THAT(refusal("sgd", "weight_decay=0.1"), KTO_CONTAINS("--weight_decay"));
  CHECK_THAT(refusal("sgd", "nesterov=true"), KTO_CONTAINS("nesterov needs a momentum"));
  CHECK_THAT(refusal("rmsprop", "eps=-1"), KTO_CONTAINS("eps"));
  CHECK_THAT(refusal("adamw_torch", "beta1=0.9"), KTO_CONTAINS("it has none"));
  CHECK(refusal("rmsprop", " alpha = 0.9 , centered = True ") == "");
  CHECK_THAT(refusal("lomo", ""), KTO_CONTAINS("refused"));
}

TEST_CASE("adafactor keeps a row and a column of a matrix, in float32 where the parameter is bfloat16") {
  const Two model{at::randn({8, 6}).to(at::kBFloat16).requires_grad_(true), at::randn({7}).requires_grad_(true)};
  FlatParameters flat = flatten_parameters(model);
  Adafactor adafactor;
  const Tensor before = model.weight.detach().clone();
  for (const Tensor& parameter : {model.weight, model.norm})
    parameter.mutable_grad() = at::randn(parameter.sizes(), parameter.options().requires_grad(false));
  adafactor.step(flat, {.learning_rate = 0.5, .grad_divisor = {}});
  REQUIRE(adafactor.squares.size() == 2);
  for (const auto& square : adafactor.squares) {
    if (square.all_n.defined()) continue;
    CHECK(square.row_R.sizes() == at::IntArrayRef({8}));
    CHECK(square.column_C.sizes() == at::IntArrayRef({6}));
    CHECK(square.row_R.scalar_type() == at::kFloat);
  }
  CHECK(at::isfinite(model.weight).all().item<bool>());
  CHECK_FALSE(at::equal(before, model.weight));
}

}  // namespace test_optimizers
