// SPDX-License-Identifier: Apache-2.0
// What a run says of itself: settings out of range, collapsing rewards, rows that are not finite, the model card.
#include "catch.hpp"
#include "examples/toy.hpp"
#include "kto/loss/apo_zero.hpp"
#include "kto/train/callbacks/advice.hpp"
#include "kto/train/model_card.hpp"
#include "tests/data/temporary_folder.hpp"

namespace test_watching {

using kto::Tensor;

TEST_CASE("settings outside the usual ranges get a sentence each, others none") {
  kto::TrainConfig usual{.per_device_train_batch_size = 4, .gradient_accumulation_steps = 4, .learning_rate = 5e-7};
  CHECK(kto::config_advice(usual).empty());
  usual.learning_rate = 5e-6, usual.gradient_accumulation_steps = 32;
  CHECK(kto::config_advice(usual).empty());

  const auto only = [&](auto change, const char* message) {
    kto::TrainConfig config = usual;
    change(config);
    const auto advice = kto::config_advice(config);
    REQUIRE(advice.size() == 1);
    CHECK_THAT(advice[0], KTO_CONTAINS(message));
  };
  using C = kto::TrainConfig;
  only([](C& c) { c.learning_rate = 5.1e-6; }, "learning_rate 5.1e-06 is outside 5e-7 to 5e-6");
  only([](C& c) { c.learning_rate = 4e-7; }, "learning_rate 4e-07");
  only([](C& c) { c.gradient_accumulation_steps = 33; }, "an update has 132 rows");
  only([](C& c) { c.gradient_accumulation_steps = 3; }, "an update has 12 rows");
  only([](C& c) { c.per_device_train_batch_size = 3; }, "per_device_train_batch_size 3 is below 4");
  kto::TrainConfig window = usual;
  window.per_device_train_batch_size = 1, window.kl_scope = kto::KlScope::window;
  CHECK(kto::config_advice(window).empty());
}

TEST_CASE("collapsing rewards are reported once: kl at 0 and a falling margin, several log entries in a row") {
  std::vector<std::string> told;
  const kto::Callback watch = kto::watch_collapse([&](const std::string& text) { told.push_back(text); }, 3);
  kto::TrainerState state;
  kto::Control control;
  const auto log = [&](double kl, double margin) {
    ++state.global_step;
    watch.on_log(state, {{"loss", 0.5}, {"kl", kl}, {"rewards/margins", margin}}, control);
  };
  log(0, 1.0), log(0, 0.9), log(0, 0.8);
  log(0.1, 0.7);  // kl moves again
  log(0, 0.6), log(0, 0.5);
  log(0, 0.55);  // the margin rises again
  log(0, 0.5), log(0, 0.4);
  CHECK(told.empty());
  watch.on_log(state, {{"eval_loss", 0.5}}, control);  // an entry of another kind does not count
  log(0, 0.3);
  REQUIRE(told.size() == 1);
  CHECK_THAT(told[0], KTO_CONTAINS("step 10: the rewards are collapsing"));
  log(0, 0.2), log(0, 0.1), log(0, 0.05), log(0, 0.01);
  CHECK(told.size() == 1);
}

namespace {

/// A model whose logits after token 11 are not finite, and rows of which two have that token.
struct Poisoned {
  kto::FunctionModel<std::function<Tensor(const kto::NamedTensors&, const Tensor&, const Tensor&)>> model{
      toy::bigram_model().parameters, [](const kto::NamedTensors& p, const Tensor& ids, const Tensor&) {
        return Tensor(at::embedding(p[0].second, ids).masked_fill(ids.eq(11).unsqueeze(-1), NAN));
      }};
  std::vector<kto::Example> rows = toy::rows(12);
  Poisoned() {
    for (auto& row : rows)
      for (auto* ids : {&row.prompt_ids, &row.completion_ids})
        for (auto& id : *ids) id = id == 11 ? 10 : id;
    for (const std::size_t bad : {std::size_t{4}, std::size_t{6}}) rows[bad].completion_ids.front() = 11;
  }
};

}  // namespace

TEST_CASE("a batch that is not finite is reported by step and rows, and no weight changes") {
  const Poisoned poisoned;
  kto::Trainer trainer{.model = poisoned.model,
                       .collator = kto::PaddedCollator{},
                       .loss = kto::ApoZeroUnpaired{},
                       .reference = kto::live_reference(toy::bigram_model()),
                       .config = {.per_device_train_batch_size = 4, .max_steps = 3, .learning_rate = 0.1}};
  CHECK_THROWS_WITH(trainer.train(poisoned.rows),
                    KTO_CONTAINS("step 2: the loss is not finite for the rows 5, 7; this step changed no weight"));
  CHECK(at::isfinite(poisoned.model.parameters[0].second).all().item<bool>());
}

TEST_CASE("weights that an update leaves not finite are not saved over those that were") {
  const kto_test::TemporaryFolder folder;
  const auto train = [&](std::int64_t num_steps, std::int64_t bad_step, kto::SaveStrategy save) {
    const auto model = toy::bigram_model();
    kto::Trainer trainer{.model = model,
                         .collator = kto::PaddedCollator{},
                         .loss = kto::ApoZeroUnpaired{},
                         .reference = kto::live_reference(model),
                         .config = {.output_dir = folder.path().string(),
                                    .overwrite_output_dir = true,
                                    .per_device_train_batch_size = 4,
                                    .max_steps = num_steps,
                                    .save_strategy = save,
                                    .save_steps = 1,
                                    .save_total_limit = 1}};
    trainer.learning_rate = [=](std::int64_t step) { return step + 1 == bad_step ? 1e39 : 0.1; };
    trainer.train(toy::rows(12));
  };
  CHECK_THROWS_WITH(train(1, 1, kto::SaveStrategy::no), KTO_CONTAINS("step 1: the update left table with values that"));
  CHECK_THROWS_WITH(train(3, 2, kto::SaveStrategy::steps), KTO_CONTAINS("step 2: the update left table"));
  const auto left = kto::list_checkpoints(folder.path());
  REQUIRE(left.size() == 1);
  CHECK(left.begin()->first == 1);
  CHECK(at::isfinite(kto::Checkpoint(left.begin()->second, "model").tensor("table")).all().item<bool>());
}

TEST_CASE("such a batch is skipped on request, and the others train") {
  const Poisoned poisoned;
  const Tensor before = poisoned.model.parameters[0].second.detach().clone();
  kto::Trainer trainer{.model = poisoned.model,
                       .collator = kto::PaddedCollator{},
                       .loss = kto::ApoZeroUnpaired{},
                       .reference = kto::live_reference(toy::bigram_model()),
                       .config = {.per_device_train_batch_size = 4,
                                  .max_steps = 3,
                                  .learning_rate = 0.1,
                                  .logging_steps = 1,
                                  .nonfinite_loss = kto::NonFiniteLoss::skip}};
  const auto state = trainer.train(poisoned.rows);
  CHECK(state.global_step == 3);
  REQUIRE(state.log_history.size() >= 3);
  CHECK(state.log_history[0].contains("loss"));
  CHECK_FALSE(state.log_history[1].contains("loss"));
  CHECK(state.log_history[1]["skipped_steps"] == 1);
  CHECK(state.log_history[2].contains("loss"));
  CHECK(at::isfinite(poisoned.model.parameters[0].second).all().item<bool>());
  CHECK_FALSE(at::equal(before, poisoned.model.parameters[0].second));
}

TEST_CASE("logging_nan_inf_filter keeps such losses out of the logged ones, of training and of evaluation") {
  const auto run = [](bool filter, double logging_steps) {
    const Poisoned poisoned;  // step 2 of 3 is skipped
    kto::Trainer trainer{.model = poisoned.model,
                         .collator = kto::PaddedCollator{},
                         .loss = kto::ApoZeroUnpaired{},
                         .reference = kto::live_reference(toy::bigram_model()),
                         .config = {.per_device_train_batch_size = 4,
                                    .per_device_eval_batch_size = 4,
                                    .max_steps = 3,
                                    .learning_rate = 0.1,
                                    .logging_steps = logging_steps,
                                    .logging_nan_inf_filter = filter,
                                    .eval_strategy = kto::IntervalStrategy::epoch,
                                    .nonfinite_loss = kto::NonFiniteLoss::skip}};
    const auto rows = std::span<const kto::Example>(poisoned.rows);
    std::vector<kto::Example> sound(rows.begin(), rows.begin() + 4);
    sound.insert(sound.end(), rows.begin() + 8, rows.end());
    const auto state = trainer.train(rows, rows);
    return std::pair{state, trainer.evaluate(sound)["eval_loss"].get<double>()};
  };
  const auto value = [](const kto::Json& entry, const char* name) { return entry[name].get<double>(); };
  const auto [each, sound_loss] = run(true, 1);
  const double first = value(each.log_history[0], "loss"), third = value(each.log_history[2], "loss");
  CHECK(value(each.log_history[3], "eval_loss") == Approx(sound_loss));
  CHECK(each.train_loss == Approx((first + third) / 2));
  const auto one = run(true, 3).first;
  CHECK(value(one.log_history[0], "loss") == Approx((first + third) / 2));
  CHECK(one.log_history[0]["skipped_steps"] == 1);

  const auto shown = run(false, 1).first;
  CHECK(value(shown.log_history[0], "loss") == first);
  CHECK(std::isnan(value(shown.log_history[1], "loss")));
  CHECK_FALSE(shown.log_history[1].contains("grad_norm"));
  CHECK(value(shown.log_history[2], "loss") == third);  // the weights are the same
  CHECK(std::isnan(value(shown.log_history[3], "eval_loss")));
  CHECK(std::isnan(shown.train_loss));
  CHECK(std::isnan(value(run(false, 3).first.log_history[0], "loss")));
}

TEST_CASE("the model card has TRL's front matter; names are YAML text whatever is in them") {
  const std::string card = kto::to_markdown({.model_name = "it's: a model",
                                             .base_model = "org/base",
                                             .dataset = "org/rows",
                                             .library_name = "peft",
                                             .version = "1.2.3"});
  CHECK_THAT(card, KTO_CONTAINS("---\nbase_model: 'org/base'\ndatasets: 'org/rows'\nlibrary_name: 'peft'\n"
                                "model_name: 'it''s: a model'\npipeline_tag: 'text-generation'\ntags:\n"
                                "- generated_from_trainer\n- trl\n- kto\n- 'base_model:adapter:org/base'\n- lora\n"
                                "- transformers\nlicence: license\n---\n\n# Model Card for it's: a model\n"));
  CHECK_THAT(card, KTO_CONTAINS("[org/base](https://huggingface.co/org/base)"));
  CHECK_THAT(card, KTO_CONTAINS("https://huggingface.co/papers/2402.01306"));
  CHECK_THAT(card, KTO_CONTAINS("### Framework versions\n\n- kto: 1.2.3\n") &&
                       KTO_CONTAINS("```bibtex\n@article{ethayarajh2024kto,\n") &&
                       KTO_CONTAINS("    year         = 2024,\n    eprint       = {arXiv:2402.01306},\n}\n```\n"));
  CHECK(card.find("Quick start") == std::string::npos);
  CHECK_THAT(kto::to_markdown({.model_name = "m", .version = "1", .libtorch_version = "2.13.0", .shown_as = "me/m"}),
             KTO_CONTAINS("pipeline(\"text-generation\", model=\"me/m\"") && KTO_CONTAINS("- LibTorch: 2.13.0\n"));
  const std::string nameless = kto::to_markdown({.model_name = "out", .base_model = "", .dataset = "", .version = "1"});
  CHECK(nameless.find("base_model") == std::string::npos);
  CHECK(nameless.find("datasets") == std::string::npos);
  const std::string local = kto::to_markdown(
      {.model_name = "out", .base_model = "models/tiny/", .base_is_folder = true, .dataset = "", .version = "1"});
  CHECK_THAT(local, KTO_CONTAINS("fine-tuned version of `tiny`.") && KTO_CONTAINS("\ntags:\n- generated_from_trainer\n"
                                                                                  "- trl\n- kto\nlicence"));
  CHECK(local.find("base_model") == std::string::npos);
  CHECK(local.find("models/") == std::string::npos);
}

}  // namespace test_watching
