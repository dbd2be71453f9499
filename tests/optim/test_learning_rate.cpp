// SPDX-License-Identifier: Apache-2.0
// Learning rates against those that tests/golden/optim/make_schedules.py recorded from transformers.
#include <algorithm>

#include "catch.hpp"
#include "kto/train/options/options.hpp"

namespace test_learning_rate {

using namespace kto;

namespace {

LearningRate rate(LrSchedulerType type, const Json& kwargs, double peak = 1e-4) {
  return make_learning_rate({.type = type, .peak = peak, .num_warmup_steps = 2, .num_steps = 10}, kwargs);
}

std::string refusal(LrSchedulerType type, const char* kwargs, double peak = 1e-4) {
  try {
    rate(type, Json::parse(kwargs), peak);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("every schedule gives transformers' rates, update by update") {
  const Json golden = read_json(std::string(KTO_SOURCE_DIR) + "/tests/golden/optim/schedules.json");
  std::vector<LrSchedulerType> seen;
  for (const Json& recorded : golden["cases"]) {
    INFO(recorded["type"] << " " << recorded["kwargs"]);
    TrainConfig config;
    config.learning_rate = golden["learning_rate"];
    from_json(train_options(), config,
              Json{{"lr_scheduler_type", recorded["type"]}, {"lr_scheduler_kwargs", recorded["kwargs"].dump()}},
              "golden");
    seen.push_back(config.lr_scheduler_type);
    LearningRate rates = learning_rate_of(config, recorded["warmup"], golden["num_steps"]);
    for (std::size_t i = 0; i < recorded["rates"].size(); ++i) {
      INFO("update " << i);
      CHECK(rates(static_cast<std::int64_t>(i)) ==
            Approx(recorded["rates"][i].get<double>()).epsilon(1e-12).margin(1e-20));
      rates.observe(golden["metrics"][i]);
    }
  }
  for (std::size_t type = 0; type < enum_names<LrSchedulerType>.size(); ++type)
    CHECK(std::count(seen.begin(), seen.end(), static_cast<LrSchedulerType>(type)) > 0);
}

TEST_CASE("the cases move the rates that follow evaluations down, and up, and back") {
  const Json golden = read_json(std::string(KTO_SOURCE_DIR) + "/tests/golden/optim/schedules.json");
  bool falls = false, rises = false;
  for (const Json& recorded : golden["cases"])
    for (std::size_t i = 1; i < recorded["rates"].size() && recorded["type"] == "greedy"; ++i) {
      falls = falls || recorded["rates"][i] < recorded["rates"][i - 1];
      rises = rises || recorded["rates"][i] > recorded["rates"][i - 1];
    }
  CHECK(falls);
  CHECK(rises);
}

TEST_CASE("lr_scheduler_kwargs that do not belong are refused by name") {
  using enum LrSchedulerType;
  CHECK(refusal(linear, R"({"num_cycles": 2})") ==
        "lr_scheduler_kwargs: linear has no argument \"num_cycles\"; it has none");
  CHECK(refusal(polynomial, R"({"powr": 2})") ==
        "lr_scheduler_kwargs: polynomial has no argument \"powr\"; it has lr_end, power");
  CHECK(refusal(polynomial, R"({"power": "two"})") ==
        "lr_scheduler_kwargs: power: expected a number >= 0, got \"two\"");
  CHECK_THAT(refusal(polynomial, "{}", 1e-8), KTO_CONTAINS("must be below learning_rate"));
  CHECK_THAT(refusal(cosine_with_min_lr, "{}"), KTO_CONTAINS("needs one of min_lr and min_lr_rate"));
  CHECK_THAT(refusal(cosine_with_min_lr, R"({"min_lr": 1e-6, "min_lr_rate": 0.1})"), KTO_CONTAINS("needs one of"));
  CHECK_THAT(refusal(warmup_stable_decay, "{}"), KTO_CONTAINS("needs num_decay_steps"));
  CHECK_THAT(refusal(warmup_stable_decay, R"({"num_decay_steps": 2.5})"), KTO_CONTAINS("expected an integer"));
  CHECK_THAT(refusal(warmup_stable_decay, R"({"num_decay_steps": 2, "decay_type": "exp"})"),
             KTO_CONTAINS("expected linear or cosine or 1-sqrt"));
  CHECK_THAT(refusal(reduce_lr_on_plateau, R"({"factor": 1})"), KTO_CONTAINS("factor"));
  CHECK_THAT(refusal(greedy, R"({"smooth": 1})"), KTO_CONTAINS("expected true or false"));
  CHECK_THAT(refusal(linear, "[1]"), KTO_CONTAINS("expected an object"));
}

TEST_CASE("a polynomial without steps after its warm-up, and other edges, stay finite") {
  using enum LrSchedulerType;
  for (const auto type : {linear, cosine, cosine_with_restarts, polynomial, inverse_sqrt})
    for (const std::int64_t step : {0, 9, 10, 11, 1000}) {
      const LearningRate rates =
          make_learning_rate({.type = type, .peak = 1e-4, .num_warmup_steps = 10, .num_steps = 10}, Json::object());
      CHECK(std::isfinite(rates(step)));
    }
}

}  // namespace test_learning_rate
