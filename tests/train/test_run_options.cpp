// SPDX-License-Identifier: Apache-2.0
// Options of TrainConfig that steer the loop: prefetching, filters of the log, delays, counts, noise.
#include <thread>

#include "catch.hpp"
#include "examples/toy.hpp"
#include "kto/loss/kto.hpp"
#include "kto/train/callbacks/report.hpp"
#include "tests/data/temporary_folder.hpp"

namespace test_run_options {

using kto::Tensor;

namespace {

kto::TrainerState run(const kto::TrainConfig& config, kto::Callbacks callbacks = {}, int num_rows = 16) {
  const auto model = toy::bigram_model();
  kto::Trainer trainer{.model = model,
                       .collator = kto::PaddedCollator{},
                       .loss = kto::Kto{},
                       .reference = kto::live_reference(model),
                       .config = config,
                       .callbacks = std::move(callbacks)};
  return trainer.train(toy::rows(num_rows), toy::rows(8));
}

struct FailingCollator {
  static constexpr kto::BatchParts provides{.kl_pairs = true, .padded_rows = true};
  kto::Batch operator()(std::span<const kto::Pick> picks, bool with_kl) const {
    if (picks[0].example->row >= 8) kto::fail("row ", picks[0].example->row, " cannot be collated");
    return kto::PaddedCollator{}(picks, with_kl);
  }
};

std::vector<double> column(const kto::TrainerState& state, const std::string& name) {
  std::vector<double> out;
  for (const auto& entry : state.log_history)
    if (entry.contains(name)) out.push_back(entry[name].get<double>());
  return out;
}

}  // namespace

TEST_CASE("any number of dataloader workers gives the same run") {
  kto::TrainConfig config{.per_device_train_batch_size = 2,
                          .gradient_accumulation_steps = 2,
                          .num_train_epochs = 3,
                          .learning_rate = 0.05,
                          .logging_steps = 1,
                          .eval_strategy = kto::IntervalStrategy::epoch};
  const auto strip = [](const kto::TrainerState& state) {
    return std::pair{column(state, "loss"), column(state, "eval_loss")};
  };
  const auto none = strip(run(config));
  CHECK(none.first.size() == 12);
  for (const std::int64_t workers : {1, 2, 5}) {
    config.dataloader_num_workers = workers;
    config.dataloader_prefetch_factor = workers == 2 ? 1 : 3;
    CHECK(strip(run(config)) == none);
  }
}

TEST_CASE("batches come in order from many workers, which stop when they are not wanted any more") {
  const auto rows = toy::rows(64);
  const auto picks = kto::train_picks(rows, {.per_device_train_batch_size = 2}, 0);
  for (const std::size_t take : {std::size_t{0}, std::size_t{3}, picks.size()}) {
    const kto::PaddedCollator collator;
    kto::BatchSource source(collator, picks, true, 4, 2);
    for (std::size_t i = 0; i < take; ++i) CHECK(source.next().picks[0].example == picks[i][0].example);
  }
}

TEST_CASE("an exception of a collator in a worker ends the run with its message") {
  auto rows = toy::rows(16);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i].row = i;
  const auto model = toy::bigram_model();
  kto::Trainer trainer{
      .model = model,
      .collator = FailingCollator{},
      .loss = kto::Kto{},
      .reference = kto::live_reference(model),
      .config = {.per_device_train_batch_size = 4, .dataloader_num_workers = 2, .num_train_epochs = 1}};
  CHECK_THROWS_WITH(trainer.train(rows), KTO_CONTAINS("row 8 cannot be collated"));
}

TEST_CASE("eval_delay counts updates or epochs") {
  kto::TrainConfig config{.per_device_train_batch_size = 4,
                          .max_steps = 8,
                          .eval_strategy = kto::IntervalStrategy::steps,
                          .eval_steps = 2,
                          .eval_delay = 5};
  CHECK(column(run(config), "eval_loss").size() == 2);  // at 6 and 8
  config.eval_strategy = kto::IntervalStrategy::epoch;
  config.eval_delay = 2;
  CHECK(column(run(config), "eval_loss").size() == 1);  // of two epochs
}

TEST_CASE("dataloader_drop_last drops an evaluation's incomplete last batch") {
  const auto rows = toy::rows(7);
  kto::TrainConfig config{.per_device_eval_batch_size = 3, .dataloader_drop_last = true};
  CHECK(kto::eval_picks(rows, config).size() == 2);
  config.per_device_eval_batch_size = 7;
  CHECK(kto::eval_picks(rows, config).size() == 1);
  config.per_device_eval_batch_size = 8;
  CHECK_THROWS_WITH(kto::eval_picks(rows, config), KTO_CONTAINS("7 rows to evaluate on do not fill a batch of 8"));
  config.dataloader_drop_last = false;
  CHECK(kto::eval_picks(rows, config).size() == 1);
}

TEST_CASE("the last update is evaluated, and an interrupted epoch counts as one") {
  kto::TrainConfig config{
      .per_device_train_batch_size = 4, .max_steps = 7, .eval_strategy = kto::IntervalStrategy::steps, .eval_steps = 4};
  CHECK(column(run(config), "eval_loss").size() == 2);  // at 4 and 7
  config.eval_strategy = config.logging_strategy = kto::IntervalStrategy::epoch;
  const auto state = run(config);
  CHECK(column(state, "eval_loss").size() == 2);  // epochs of 4 updates
  CHECK(column(state, "loss").size() == 2);
}

TEST_CASE("include_num_input_tokens_seen counts with and without padding") {
  const auto seen = [](kto::InputTokens which) {
    return column(run({.per_device_train_batch_size = 4,
                       .max_steps = 3,
                       .logging_steps = 1,
                       .include_num_input_tokens_seen = which}),
                  "num_input_tokens_seen");
  };
  const auto all = seen(kto::InputTokens::all), real = seen(kto::InputTokens::non_padding);
  CHECK(seen(kto::InputTokens::no).empty());
  REQUIRE(all.size() == 4);  // three steps and the closing entry
  REQUIRE(real.size() == 4);
  CHECK(all[0] == 4 * 5);  // rows of 5 tokens at most
  CHECK(real[0] <= all[0]);
  CHECK(real[2] > real[0]);
}

TEST_CASE("memory metrics are in the closing entry when asked for; caches are given back") {
  const auto state = run({.max_steps = 2, .skip_memory_metrics = false, .torch_empty_cache_steps = 1});
  CHECK(state.log_history.back().contains("train_mem_cpu_alloc_delta"));
  CHECK(state.log_history.back()["train_mem_cpu_peaked_delta"].get<std::int64_t>() >= 0);
  CHECK_FALSE(run({.max_steps = 2}).log_history.back().contains("train_mem_cpu_alloc_delta"));
}

TEST_CASE("full_determinism and tf32 hold while the run lasts; a device without TF32 refuses it") {
  const auto now = [] {
    const at::Context& context = at::globalContext();
    return std::array{context.deterministicAlgorithms(), context.deterministicCuDNN(), context.allowTF32CuBLAS(),
                      context.allowTF32CuDNN()};
  };
  const auto before = now();
  auto during = before;
  kto::Callback callback;
  callback.on_step_end = [&](const kto::TrainerState&, kto::Control&) { during = now(); };
  run({.max_steps = 1, .full_determinism = true}, {callback});
  CHECK(during == std::array{true, true, before[2], before[3]});
  CHECK(std::getenv("CUBLAS_WORKSPACE_CONFIG") != nullptr);
  CHECK(now() == before);
  for (const bool tf32 : {true, false}) {
    const kto::detail::CudaSettings settings(tf32, false);
    CHECK(now() == std::array{before[0], before[1], tf32, tf32});
    run({.max_steps = 1, .tf32 = false}, {callback});
    CHECK(during == std::array{before[0], before[1], false, false});
    CHECK(now() == std::array{before[0], before[1], tf32, tf32});
  }
  CHECK(now() == before);
  CHECK_THROWS_WITH(run({.max_steps = 1, .tf32 = true}), KTO_CONTAINS("cpu has no TF32"));
  CHECK_THROWS_WITH(kto::detail::check_tf32(true, at::Device("cuda:1")), KTO_CONTAINS("cuda:1 has no TF32"));
}

TEST_CASE("prediction_loss_only leaves compute_metrics out") {
  const auto model = toy::bigram_model();
  kto::Trainer trainer{.model = model,
                       .collator = kto::PaddedCollator{},
                       .loss = kto::Kto{},
                       .reference = kto::live_reference(model),
                       .config = {.prediction_loss_only = true}};
  trainer.evaluation.compute_metrics = [](const kto::EvalPrediction&) { return kto::Json{{"own", 1}}; };
  CHECK_FALSE(trainer.evaluate(toy::rows(8)).contains("eval_own"));
  trainer.config.prediction_loss_only = false;
  CHECK(trainer.evaluate(toy::rows(8)).contains("eval_own"));
}

TEST_CASE("a learning rate that follows the evaluations falls in a run that does not improve") {
  const auto state = run({.per_device_train_batch_size = 4,
                          .max_steps = 4,
                          .learning_rate = 1e-3,
                          .lr_scheduler_type = kto::LrSchedulerType::reduce_lr_on_plateau,
                          .lr_scheduler_kwargs = {{"patience", 0}, {"mode", "max"}, {"threshold", 10}},
                          .logging_steps = 1,
                          .eval_strategy = kto::IntervalStrategy::steps,
                          .eval_steps = 1});
  const auto rates = column(state, "learning_rate");
  REQUIRE(rates.size() == 4);
  CHECK(rates[0] == 1e-3);
  CHECK(rates[1] == 1e-3);  // the first evaluation is the best so far
  CHECK(rates[2] == Approx(1e-4));
  CHECK(rates[3] == Approx(1e-5));
}

TEST_CASE("reports hold every entry of the log") {
  const kto_test::TemporaryFolder folder;
  const auto state = run(
      {.max_steps = 2, .logging_steps = 1},
      {kto::report_jsonl(folder.path() / "metrics.jsonl", "night"), kto::report_tensorboard(folder.path() / "runs")});
  const std::string text = kto::read_file(folder.path() / "metrics.jsonl");
  CHECK(std::count(text.begin(), text.end(), '\n') == static_cast<std::ptrdiff_t>(state.log_history.size()));
  const auto first = kto::parse_json(text.substr(0, text.find('\n')), "metrics.jsonl");
  CHECK(first["run_name"] == "night");
  CHECK(first["loss"] == state.log_history[0]["loss"]);
  CHECK(std::distance(kto::fs::directory_iterator(folder.path() / "runs"), {}) == 1);
}

TEST_CASE("several sets are evaluated by name, one log entry each, and one of them says what is best") {
  const auto model = toy::bigram_model();
  const auto rows = toy::rows(16), chat = toy::rows(8), code = toy::rows(5);
  kto::Trainer trainer{.model = model,
                       .collator = kto::PaddedCollator{},
                       .loss = kto::Kto{},
                       .reference = kto::live_reference(model),
                       .config = {.per_device_train_batch_size = 4,
                                  .max_steps = 2,
                                  .learning_rate = 0.1,
                                  .lr_scheduler_type = kto::LrSchedulerType::reduce_lr_on_plateau,
                                  .eval_strategy = kto::IntervalStrategy::steps,
                                  .eval_steps = 1,
                                  .metric_for_best_model = "code_loss"}};
  std::vector<std::string> sampled;
  trainer.evaluation.samples = [&](std::span<const kto::Example> of) {
    sampled.push_back(kto::concat(of.size()));
    return kto::Json::array();
  };
  std::size_t num_evaluations = 0;
  trainer.callbacks = {{.on_evaluate = [&](const auto&, const kto::Json& metrics, kto::Control&) {
    CHECK((metrics.contains("eval_chat_loss") != metrics.contains("eval_code_loss")));
    ++num_evaluations;
  }}};
  const auto state = trainer.train(rows, {{"chat", chat}, {"code", code}});
  CHECK(num_evaluations == 4);
  CHECK(sampled == std::vector<std::string>{"8", "5", "8", "5"});
  const auto losses = column(state, "eval_code_loss");
  REQUIRE(losses.size() == 2);
  CHECK(column(state, "eval_chat_rewards/margins").size() == 2);
  CHECK(column(state, "eval_loss").empty());
  CHECK(*state.best_metric == std::min(losses[0], losses[1]));
  CHECK_FALSE(state.log_history.back().contains("loss"));  // an evaluation came last
  const kto::Json both = trainer.evaluate({{"chat", chat}, {"code", code}});
  CHECK(both["eval_chat_loss"] == trainer.evaluate(chat)["eval_loss"]);
  CHECK(both["eval_code_loss"] == trainer.evaluate(code)["eval_loss"]);

  trainer.config.metric_for_best_model.reset();
  CHECK_THROWS_WITH(trainer.train(rows, {{"chat", chat}, {"code", code}}),
                    KTO_CONTAINS("eval_loss is not a metric of the evaluation sets; name one such as eval_chat_loss, "
                                 "eval_code_loss"));
  CHECK_THROWS_WITH(trainer.train(rows, {{"chat", chat}, {"chat", code}}), KTO_CONTAINS("the name chat occurs twice"));
  CHECK_THROWS_WITH(trainer.train(rows, {{"chat", chat}, {"", code}}), KTO_CONTAINS("a set has no name"));
  CHECK_THROWS_WITH(trainer.train(rows, {{"chat", {}}}), KTO_CONTAINS("chat has no rows"));
}

TEST_CASE("rows that are alone with their KL baseline are refused; a lone last row is noted where it is visited") {
  std::vector<std::string> notes;
  const auto with = [&](kto::TrainConfig config, int num_rows) {
    notes.clear();
    config.learning_rate = 1e-3;
    run(config, {{.on_note = [&](const std::string& note) { notes.push_back(note); }}}, num_rows);
    return notes.size();
  };
  CHECK_THROWS_WITH(with({.per_device_train_batch_size = 1, .gradient_accumulation_steps = 4, .max_steps = 1}, 16),
                    KTO_CONTAINS("per_device_train_batch_size 1 leaves each row alone") &&
                        KTO_CONTAINS("larger batches (4 rows or more), or kl_scope window"));
  CHECK_THROWS_WITH(with({.per_device_train_batch_size = 1, .kl_scope = kto::KlScope::window, .max_steps = 1}, 16),
                    KTO_CONTAINS("raise gradient_accumulation_steps"));
  CHECK(with({.per_device_train_batch_size = 1,
              .gradient_accumulation_steps = 4,
              .kl_scope = kto::KlScope::window,
              .max_steps = 1},
             16) == 0);
  CHECK(with({.max_steps = 1}, 1) == 1);  // all the rows there are
  CHECK(with({.per_device_train_batch_size = 4, .max_steps = 2}, 9) == 0);
  CHECK(with({.per_device_train_batch_size = 4, .max_steps = 3}, 9) == 1);
  CHECK_THAT(notes.at(0), KTO_CONTAINS("the last micro-batch of an epoch is a single row"));
  CHECK(with({.per_device_train_batch_size = 2, .gradient_accumulation_steps = 2, .max_steps = 2}, 9) == 0);
  CHECK(with({.per_device_train_batch_size = 2, .gradient_accumulation_steps = 2, .max_steps = 4}, 9) == 1);
}

}  // namespace test_run_options
