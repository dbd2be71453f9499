// SPDX-License-Identifier: Apache-2.0
// Dynamic loss scaling against torch's GradScaler (tests/golden/optim/make_loss_scale.py), and in the trainer.
#include <ATen/ops/sqrt.h>

#include "catch.hpp"
#include "examples/toy.hpp"
#include "kto/loss/kto.hpp"

namespace test_loss_scale {

using kto::LossScale;
using kto::Tensor;

namespace {

struct Run {
  kto::TrainerState state;
  Tensor table;
  std::vector<std::string> notes = {};

  std::vector<double> column(const std::string& name) const {
    std::vector<double> out;
    for (const auto& entry : state.log_history)
      if (entry.contains(name)) out.push_back(entry[name].get<double>());
    return out;
  }
};

template <class Logits>
Run run(const Logits& logits, const kto::TrainConfig& config) {
  kto::FunctionModel model{toy::bigram_model().parameters, logits};
  Run out;
  kto::Callback callback;
  callback.on_note = [&](const std::string& text) { out.notes.push_back(text); };
  kto::Trainer trainer{.model = model,
                       .collator = kto::PaddedCollator{},
                       .loss = kto::Kto{},
                       .reference = kto::live_reference(model),
                       .config = config,
                       .callbacks = {callback}};
  out.state = trainer.train(toy::rows(16));
  out.table = model.parameters[0].second.detach().clone();
  return out;
}

Tensor plain(const kto::NamedTensors& p, const Tensor& ids, const Tensor&) { return at::embedding(p[0].second, ids); }

/// Its gradient is `factor` times as large in float16 as in the end.
auto steep(double factor) {
  return [factor](const kto::NamedTensors& p, const Tensor& ids, const Tensor&) {
    return Tensor((at::embedding(p[0].second, ids) / factor).to(at::kHalf).to(at::kFloat) * factor);
  };
}

kto::TrainConfig config_of(bool fp16, std::int64_t max_steps = 8) {
  return {.per_device_train_batch_size = 4,
          .gradient_accumulation_steps = 2,
          .max_steps = max_steps,
          .learning_rate = 0.05,
          .logging_steps = 1,
          .fp16 = fp16};
}

}  // namespace

TEST_CASE("the loss scale follows torch's GradScaler") {
  const kto::Json golden = kto::read_json(kto::fs::path(KTO_SOURCE_DIR) / "tests/golden/optim/loss_scale.json");
  std::set<std::int64_t> overflows;
  for (const auto& step : golden["overflows"]) overflows.insert(step.get<std::int64_t>());
  LossScale scale(true);
  kto::Json changes = {{0, scale.value()}};
  for (std::int64_t step = 1; step <= golden["num_steps"].get<std::int64_t>(); ++step) {
    scale.follow(!overflows.contains(step), step);
    if (scale.value() != changes.back()[1]) changes.push_back({step, scale.value()});
  }
  CHECK(changes == golden["changes"]);
  CHECK(scale.num_skipped() == static_cast<std::int64_t>(overflows.size()));
}

TEST_CASE("it neither grows past float32 nor shrinks for ever, and does nothing where it is off") {
  LossScale scale(true);
  for (std::int64_t step = 1; step <= 200 * LossScale::growth_interval; ++step) scale.follow(true, step);
  CHECK(scale.value() == 0x1p127);
  CHECK_THROWS_WITH(
      [&] {
        for (std::int64_t step = 1; step <= 200; ++step) scale.follow(false, step);
      }(),
      KTO_CONTAINS("step 138: the gradient is not finite in float16, not even at a loss scale of 0.000976562"));
  LossScale off;
  off.follow(false, 1);
  CHECK(off.value() == 1);
  CHECK(off.num_skipped() == 0);
  const Tensor loss = at::ones({});
  CHECK(off.scaled(loss).is_same(loss));
}

TEST_CASE("where nothing overflows, training with loss scaling is training without, to the last bit") {
  for (const double max_grad_norm : {1.0, 1e-3, 0.0}) {
    auto config = config_of(false);
    config.max_grad_norm = max_grad_norm;
    const Run without = run(plain, config);
    config.fp16 = true;
    const Run with = run(plain, config);
    CHECK(at::equal(with.table, without.table));
    for (const char* name : {"loss", "grad_norm", "learning_rate"}) CHECK(with.column(name) == without.column(name));
    CHECK(with.column("loss_scale") == std::vector<double>(8, 65536));
    CHECK(without.column("loss_scale").empty());
  }
}

TEST_CASE("a step whose gradient overflows is skipped and the scale halved") {
  const Run scaled = run(steep(4000), config_of(true, 12));
  const auto scales = scaled.column("loss_scale"), rates = scaled.column("learning_rate");
  const auto num_skipped = static_cast<std::size_t>(
      std::find_if(scales.begin(), scales.end(), [&](double each) { return each == scales.back(); }) - scales.begin() +
      1);
  REQUIRE(num_skipped > 1);
  REQUIRE(num_skipped < 10);
  for (std::size_t i = 0; i < num_skipped; ++i) {
    CHECK(scales[i] == 65536 / std::pow(2, i + 1));
  }
  for (std::size_t i = 0; i < 12; ++i) CHECK(rates[i] == Approx(0.05 * static_cast<double>(12 - i) / 12));
  CHECK(scaled.column("loss").size() == 12);  // those of skipped steps are known and finite
  CHECK(scaled.column("grad_norm").size() == 12 - num_skipped);
  REQUIRE(scaled.notes.size() == 1);
  CHECK_THAT(scaled.notes[0], KTO_CONTAINS("step 1: the gradient overflows float16 at a loss scale of 65536"));

  const Run nothing_left = run(steep(4000), config_of(true, static_cast<std::int64_t>(num_skipped)));
  CHECK(at::equal(nothing_left.table, toy::bigram_model().parameters[0].second.detach()));
}

TEST_CASE("a gradient that no scale makes finite ends the run; so does a loss that is not finite") {
  const auto sharp = [](const kto::NamedTensors& p, const Tensor& ids, const Tensor&) {
    return Tensor(at::embedding(p[0].second, ids) + at::sqrt(p[0].second * 0).sum());  // 0, with a gradient of 0 / 0
  };
  CHECK_THROWS_WITH(run(sharp, config_of(true, 40)), KTO_CONTAINS("step 27: the gradient is not finite in float16"));
  CHECK_THROWS_WITH(run(sharp, config_of(false, 40)), KTO_CONTAINS("step 1: the gradient is not finite"));
  const auto broken = [](const kto::NamedTensors& p, const Tensor& ids, const Tensor&) {
    return Tensor(at::embedding(p[0].second, ids) * NAN);
  };
  CHECK_THROWS_WITH(run(broken, config_of(true)), KTO_CONTAINS("step 1: the loss is not finite for the rows"));
}

TEST_CASE("float16 and loss scaling go together, over parameters of float32") {
  auto model = toy::bigram_model();
  const auto refusal = [&](const auto& policy, bool fp16) {
    try {
      kto::check_precision(policy, fp16);
    } catch (const kto::Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(refusal(model, true).empty());
  struct Computes {
    kto::NamedTensors parameters;
    at::ScalarType compute;
    kto::NamedTensors named_parameters() const { return parameters; }
  };
  CHECK(refusal(Computes{model.parameters, at::kHalf}, true).empty());
  CHECK(refusal(Computes{model.parameters, at::kFloat}, false).empty());
  CHECK_THAT(refusal(Computes{model.parameters, at::kHalf}, false), KTO_CONTAINS("computes in Half, but fp16 is off"));
  CHECK_THAT(refusal(Computes{model.parameters, at::kFloat}, true), KTO_CONTAINS("computes in Float, but fp16 is on"));
  model.parameters[0].second = model.parameters[0].second.detach().to(at::kBFloat16).requires_grad_(true);
  CHECK_THAT(refusal(model, true), KTO_CONTAINS("fp16 trains table, which is BFloat16; expected float32"));
}

}  // namespace test_loss_scale
