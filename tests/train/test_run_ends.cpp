// SPDX-License-Identifier: Apache-2.0
// The results of a run at its end, and at the end of an interrupted epoch: checkpoints, the best model, the
// closing entry. The numbers of steps are transformers'.
#include "catch.hpp"
#include "examples/toy.hpp"
#include "kto/loss/kto.hpp"
#include "tests/data/temporary_folder.hpp"

namespace test_run_ends {

using kto::IntervalStrategy;
using kto::SaveStrategy;
using kto::Tensor;

namespace {

struct Run {
  Tensor weights = {};
  kto::TrainerState state = {};
  std::vector<std::string> notes = {};
};

/// 12 rows in batches of 4: an epoch has 3 steps.
Run run(kto::TrainConfig config, kto::Callback callback = {}) {
  Run out;
  const auto model = toy::bigram_model();
  callback.on_note = [&](const std::string& note) { out.notes.push_back(note); };
  config.per_device_train_batch_size = 4;
  kto::Trainer trainer{.model = model,
                       .collator = kto::PaddedCollator{},
                       .loss = kto::Kto{},
                       .reference = kto::live_reference(model),
                       .config = config,
                       .callbacks = {callback}};
  out.state = trainer.train(toy::rows(12), toy::rows(8));
  out.weights = model.parameters[0].second.detach().clone();
  return out;
}

/// Stops the run at the evaluation of `step`, as early stopping does.
kto::Callback stop_at_evaluation(std::int64_t step) {
  kto::Callback out;
  out.on_evaluate = [step](const kto::TrainerState& state, const kto::Json&, kto::Control& control) {
    control.should_stop = state.global_step == step;
  };
  return out;
}

std::vector<std::int64_t> checkpoints(const kto::fs::path& folder) {
  std::vector<std::int64_t> out;
  for (const auto& [step, path] : kto::list_checkpoints(folder)) out.push_back(step);
  return out;
}

/// Steps of the log entries that have `name`.
std::vector<std::int64_t> steps_with(const kto::TrainerState& state, const std::string& name) {
  std::vector<std::int64_t> out;
  for (const auto& entry : state.log_history)
    if (entry.contains(name)) out.push_back(entry["step"].get<std::int64_t>());
  return out;
}

using Steps = std::vector<std::int64_t>;

}  // namespace

TEST_CASE("a missing best checkpoint is reported and ignored; the run ends with its last weights") {
  const kto_test::TemporaryFolder folder;
  kto::TrainConfig config{.output_dir = (folder.path() / "out").string(),
                          .max_steps = 6,
                          .learning_rate = 0.05,
                          .eval_strategy = IntervalStrategy::steps,
                          .eval_steps = 1,
                          .save_strategy = SaveStrategy::steps,
                          .save_steps = 1,
                          .load_best_model_at_end = true,
                          .greater_is_better = true};  // of the loss: the first evaluation is the best
  const auto whole = run(config);
  REQUIRE(whole.state.best_global_step == 1);
  CHECK(whole.notes.empty());
  const auto checkpoint = [&](int step) { return kto::fs::path(config.output_dir) / kto::concat("checkpoint-", step); };
  const Tensor last = kto::Checkpoint(checkpoint(6)).tensor("table");
  CHECK_FALSE(at::equal(whole.weights, last));

  for (const int step : {1, 2, 3, 5, 6}) kto::fs::remove_all(checkpoint(step));
  auto resumed_config = config;
  resumed_config.resume_from_checkpoint = checkpoint(4).string();
  const auto resumed = run(resumed_config);
  CHECK(resumed.state.global_step == 6);
  CHECK(resumed.state.best_metric == whole.state.best_metric);
  CHECK_FALSE(resumed.state.best_model_checkpoint);
  REQUIRE(resumed.notes.size() == 1);
  CHECK_THAT(resumed.notes[0], KTO_CONTAINS("checkpoint-1, no longer exists"));
  CHECK(at::equal(resumed.weights, last));

  config.output_dir = (folder.path() / "removed").string();  // during the run
  kto::Callback remove;
  remove.on_step_begin = [&](const kto::TrainerState& state, kto::Control&) {
    if (state.global_step == 5) kto::fs::remove_all(checkpoint(1));
  };
  const auto removed = run(config, remove);
  CHECK_FALSE(removed.state.best_model_checkpoint);
  CHECK(removed.notes.size() == 1);
  CHECK(at::equal(removed.weights, last));

  config.output_dir = (folder.path() / "other").string();
  config.weight_decay = 0.1;
  run(config);
  config.weight_decay = 0;
  const auto other = checkpoint(1);
  config.output_dir = (folder.path() / "exchanged").string();
  for (const bool of_another_run : {false, true}) {
    kto::Callback exchange;
    exchange.on_step_begin = [&](const kto::TrainerState& state, kto::Control&) {
      if (state.global_step != 5) return;
      kto::fs::remove_all(checkpoint(1));
      kto::fs::copy(of_another_run ? other : checkpoint(2), checkpoint(1), kto::fs::copy_options::recursive);
    };
    const auto exchanged = run(config, exchange);
    CHECK_FALSE(exchanged.state.best_model_checkpoint);
    REQUIRE(exchanged.notes.size() == 1);
    CHECK_THAT(exchanged.notes[0], KTO_CONTAINS(of_another_run ? "is a checkpoint of a different run" : "of step 2"));
    CHECK(at::equal(exchanged.weights, last));
    config.overwrite_output_dir = true;
  }

  config.output_dir = (folder.path() / "damaged").string();
  kto::Callback damage;
  damage.on_step_begin = [&](const kto::TrainerState& state, kto::Control&) {
    if (state.global_step == 5) kto::write_file(checkpoint(1) / "model.safetensors", "no weights");
  };
  const auto damaged = run(config, damage);
  CHECK_FALSE(damaged.state.best_model_checkpoint);
  REQUIRE(damaged.notes.size() == 1);
  CHECK_THAT(damaged.notes[0], KTO_CONTAINS("model.safetensors") && KTO_CONTAINS("ends with its last weights"));
  CHECK(at::equal(damaged.weights, last));
}

TEST_CASE("memory that runs out on a device, in either pass, is known as such") {
  for (const bool backward : {false, true}) {
    const auto fail = [](const Tensor& given) {
      TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory. Tried to allocate 2.00 GiB.");
      return given;
    };
    const kto::FunctionModel model{
        kto::NamedTensors{{"table", at::ones({toy::vocabulary, toy::vocabulary}).requires_grad_(true)}},
        [&](const kto::NamedTensors& parameters, const Tensor& ids_BT, const Tensor&) {
          Tensor out = at::embedding(parameters[0].second, ids_BT);
          if (!out.requires_grad()) return out;
          if (!backward) return fail(out);
          out.register_hook(fail);
          return out;
        }};
    kto::Trainer trainer{.model = model,
                         .collator = kto::PaddedCollator{},
                         .loss = kto::Kto{},
                         .reference = kto::live_reference(model),
                         .config = {.max_steps = 1}};
    try {
      trainer.train(toy::rows(8));
      FAIL("it trained");
    } catch (const std::exception& error) {
      INFO(error.what());
      CHECK(kto::is_memory_error(error));
    }
  }
  CHECK(kto::is_memory_error(std::runtime_error("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")));
  CHECK_FALSE(kto::is_memory_error(std::runtime_error("CUDA error: an illegal memory access was encountered")));
}

TEST_CASE("save_strategy epoch saves an epoch that max_steps or a stop cuts short, but not one that will be resumed") {
  const kto_test::TemporaryFolder folder;
  kto::TrainConfig config{.output_dir = (folder.path() / "max_steps").string(),
                          .max_steps = 5,
                          .learning_rate = 0.05,
                          .eval_strategy = IntervalStrategy::epoch,
                          .save_strategy = SaveStrategy::epoch,
                          .load_best_model_at_end = true};
  const auto limited = run(config);
  CHECK(checkpoints(config.output_dir) == Steps{3, 5});
  CHECK(limited.state.best_global_step == 5);
  CHECK(limited.state.best_model_checkpoint == (folder.path() / "max_steps/checkpoint-5").string());
  CHECK(at::equal(limited.weights, kto::Checkpoint(*limited.state.best_model_checkpoint).tensor("table")));

  config.output_dir = (folder.path() / "stopped").string();
  config.max_steps = 9;
  config.eval_strategy = IntervalStrategy::steps;
  config.eval_steps = 2;
  config.load_best_model_at_end = false;
  run(config, stop_at_evaluation(4));
  CHECK(checkpoints(config.output_dir) == Steps{3, 4});

  config.output_dir = (folder.path() / "interrupted").string();
  kto::Callback interrupt;
  interrupt.on_step_end = [](const kto::TrainerState& state, kto::Control& control) {
    control.should_stop = control.interrupted = state.global_step == 4;
  };
  run(config, interrupt);
  CHECK(checkpoints(config.output_dir) == Steps{3});
}

TEST_CASE("an interrupted evaluation is repeated by the resumed run, which equals the uninterrupted one") {
  const kto_test::TemporaryFolder folder;
  kto::TrainConfig config{.output_dir = (folder.path() / "whole").string(),
                          .per_device_eval_batch_size = 2,
                          .max_steps = 4,
                          .learning_rate = 0.05,
                          .logging_steps = 1,
                          .eval_strategy = IntervalStrategy::steps,
                          .eval_steps = 1,
                          .save_strategy = SaveStrategy::steps,
                          .save_steps = 1,
                          .load_best_model_at_end = true,
                          .greater_is_better = true};
  const auto log = [](const Run& of) {
    kto::Json out = of.state.log_history;
    for (auto& entry : out)
      for (const char* part : {"eval_", "train_"})
        for (const char* clock : {"runtime", "samples_per_second", "steps_per_second"})
          entry.erase(std::string(part) + clock);
    return out;
  };
  const auto whole = run(config);
  for (const int step : {1, 3, 4}) {
    INFO(step);
    config.output_dir = (folder.path() / std::to_string(step)).string();
    config.resume_from_checkpoint = std::nullopt;
    int num_begun = 0, num_batches = 0;
    kto::Callback interrupt;
    interrupt.on_evaluate_batch = [&](std::int64_t done, std::int64_t) {
      num_begun += done == 1 ? 1 : 0;
      ++num_batches;
      if (num_begun == step && done == 2) kto::ask_to_stop();
    };
    const auto broken = run(config, interrupt);
    kto::ask_to_stop(false);
    CHECK(num_batches == 4 * (step - 1) + 2);
    CHECK(broken.state.interrupted);
    CHECK(broken.state.global_step == step);
    CHECK(steps_with(broken.state, "eval_loss").size() == static_cast<std::size_t>(step - 1));
    REQUIRE(checkpoints(config.output_dir).back() == step);
    config.resume_from_checkpoint = "True";
    const auto resumed = run(config);
    CHECK_FALSE(resumed.state.interrupted);
    CHECK(log(resumed) == log(whole));
    CHECK(resumed.state.best_global_step == whole.state.best_global_step);
    CHECK(at::equal(resumed.weights, whole.weights));
  }

  config.output_dir = (folder.path() / "at once").string();
  config.resume_from_checkpoint = std::nullopt;
  kto::ask_to_stop();
  const auto none = run(config);
  kto::ask_to_stop(false);
  CHECK(none.state.interrupted);
  CHECK(none.state.global_step == 0);
  CHECK(checkpoints(config.output_dir).empty());
}

TEST_CASE("the closing entry has the metrics of the steps since the last one, unless an evaluation came last") {
  kto::TrainConfig config{.max_steps = 5, .learning_rate = 0.05, .logging_steps = 3};
  const auto closing = run(config).state.log_history.back();
  auto every_config = config;
  every_config.logging_steps = 1;
  const auto every = run(every_config).state.log_history;
  CHECK_FALSE(every.back().contains("kl"));  // nothing is left
  REQUIRE(every.size() == 6);
  for (const char* name : {"kl", "entropy", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen"}) {
    INFO(name);
    REQUIRE(closing.contains(name));
    CHECK(closing[name].get<double>() == Approx((every[3][name].get<double>() + every[4][name].get<double>()) / 2));
  }
  CHECK(closing["num_tokens"] == every[4]["num_tokens"]);
  CHECK(closing.contains("train_loss"));
  CHECK_FALSE(closing.contains("loss"));

  config.eval_strategy = IntervalStrategy::steps;
  config.eval_steps = 4;  // and at the end
  CHECK_FALSE(run(config).state.log_history.back().contains("kl"));
  config.eval_strategy = IntervalStrategy::no;
  config.logging_strategy = IntervalStrategy::no;
  CHECK(run(config).state.log_history.back().contains("kl"));
}

TEST_CASE("with a save_total_limit of 1 a run that has ended leaves the best checkpoint alone") {
  const kto_test::TemporaryFolder folder;
  kto::TrainConfig config{.output_dir = (folder.path() / "best").string(),
                          .max_steps = 4,
                          .learning_rate = 0.05,
                          .eval_strategy = IntervalStrategy::steps,
                          .eval_steps = 1,
                          .save_strategy = SaveStrategy::steps,
                          .save_steps = 1,
                          .save_total_limit = 1,
                          .load_best_model_at_end = true,
                          .greater_is_better = true};
  REQUIRE(run(config).state.best_global_step == 1);
  CHECK(checkpoints(config.output_dir) == Steps{1});

  config.output_dir = (folder.path() / "interrupted").string();
  kto::Callback interrupt;
  interrupt.on_step_end = [](const kto::TrainerState& state, kto::Control& control) {
    control.should_stop = control.interrupted = state.global_step == 3;
  };
  run(config, interrupt);
  CHECK(checkpoints(config.output_dir) == Steps{1, 3});  // one to resume from

  config.output_dir = (folder.path() / "none").string();
  config.load_best_model_at_end = false;
  run(config);
  CHECK(checkpoints(config.output_dir) == Steps{4});
}

TEST_CASE("a learning rate that follows the evaluations has a best model") {
  const kto_test::TemporaryFolder folder;
  kto::TrainConfig config{.max_steps = 4,
                          .learning_rate = 0.05,
                          .eval_strategy = IntervalStrategy::steps,
                          .eval_steps = 1,
                          .save_strategy = SaveStrategy::steps,
                          .save_steps = 1,
                          .save_total_limit = 2,
                          .greater_is_better = true};
  for (const auto type : {kto::LrSchedulerType::reduce_lr_on_plateau, kto::LrSchedulerType::greedy}) {
    config.output_dir = (folder.path() / std::to_string(static_cast<int>(type))).string();
    config.lr_scheduler_type = type;
    const auto state = run(config).state;
    CHECK(state.best_global_step == 1);
    CHECK(state.best_metric);
    CHECK(checkpoints(config.output_dir) == Steps{1, 4});
  }
}

TEST_CASE("logging_first_step needs no other logging, and an epoch interrupted in an evaluation is logged") {
  kto::TrainConfig config{
      .max_steps = 5, .learning_rate = 0.05, .logging_strategy = IntervalStrategy::no, .logging_first_step = true};
  CHECK(steps_with(run(config).state, "loss") == Steps{1});

  config.logging_strategy = IntervalStrategy::epoch;
  config.logging_first_step = false;
  config.eval_strategy = IntervalStrategy::steps;
  config.eval_steps = 1;
  CHECK(steps_with(run(config, stop_at_evaluation(4)).state, "loss") == Steps{3, 4});
  CHECK(steps_with(run(config, stop_at_evaluation(3)).state, "loss") == Steps{3});
}

TEST_CASE("ignore_data_skip restarts the epoch, or starts the next one if it was finished") {
  const kto_test::TemporaryFolder folder;
  kto::TrainConfig config{.output_dir = (folder.path() / "out").string(),
                          .num_train_epochs = 3,
                          .learning_rate = 0.05,
                          .logging_steps = 1,
                          .save_strategy = SaveStrategy::steps,
                          .save_steps = 1};
  const auto whole = run(config);
  const auto epochs_from = [&](int step) {
    auto resumed = config;
    resumed.resume_from_checkpoint = (folder.path() / "out" / kto::concat("checkpoint-", step)).string();
    resumed.output_dir = (folder.path() / kto::concat("from-", step)).string();
    resumed.ignore_data_skip = true;
    const auto state = run(resumed).state;
    std::vector<double> out;
    for (const auto& entry : state.log_history)
      if (entry.contains("loss") && entry["step"] > step) out.push_back(std::round(3 * entry["epoch"].get<double>()));
    return out;
  };
  CHECK(epochs_from(3) == std::vector<double>{4, 5, 6, 7, 8, 9});  // in thirds
  CHECK(epochs_from(2) == std::vector<double>{1, 2, 3, 4, 5, 6, 7});
}

TEST_CASE("rates and counts cover the steps made and the requested tokens") {
  kto::TrainConfig config{.num_train_epochs = 3,
                          .learning_rate = 0.05,
                          .logging_steps = 1,
                          .eval_strategy = IntervalStrategy::steps,
                          .eval_steps = 1};
  const auto rows_of = [](const kto::Json& closing) {
    return closing["train_samples_per_second"].get<double>() * closing["train_runtime"].get<double>();
  };
  CHECK(rows_of(run(config).state.log_history.back()) == Approx(36));
  const auto stopped = run(config, stop_at_evaluation(4)).state;
  CHECK(rows_of(stopped.log_history.back()) == Approx(16));
  CHECK(steps_with(stopped, "train_tokens_per_second").empty());
  CHECK(kto::to_json(stopped, {}, config)["num_input_tokens_seen"] == 0);

  const kto_test::TemporaryFolder folder;
  config.output_dir = (folder.path() / "out").string();
  config.save_strategy = SaveStrategy::steps;
  config.save_steps = 4;
  config.include_num_input_tokens_seen = kto::InputTokens::all;
  const auto whole = run(config).state;
  CHECK(kto::to_json(whole, {}, config)["num_input_tokens_seen"] == whole.num_input_tokens_seen);
  CHECK(steps_with(whole, "train_tokens_per_second") == Steps{1, 2, 3, 4, 5, 6, 7, 8, 9});  // of training alone
  const auto& fifth = whole.log_history[8];
  REQUIRE(fifth["step"] == 5);
  CHECK(fifth["train_tokens_per_second"].get<double>() * fifth["train_runtime"].get<double>() ==
        Approx(fifth["num_input_tokens_seen"].get<double>()));

  config.resume_from_checkpoint = (folder.path() / "out/checkpoint-4").string();
  const auto resumed = run(config).state;
  CHECK(resumed.num_tokens == whole.num_tokens);
  CHECK(resumed.num_input_tokens_seen == whole.num_input_tokens_seen);
}

}  // namespace test_run_ends
