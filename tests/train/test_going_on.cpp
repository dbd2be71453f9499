// SPDX-License-Identifier: Apache-2.0
// Runs that resume from a checkpoint with different settings: settings of the future may change, those that the trained
// weights depend on may not, and each change is reported by name.
#include "catch.hpp"
#include "examples/toy.hpp"
#include "kto/loss/apo_zero.hpp"
#include "kto/loss/bco.hpp"
#include "kto/loss/kto.hpp"
#include "kto/optim/sgd.hpp"
#include "kto/reference/synced.hpp"
#include "tests/data/temporary_folder.hpp"

namespace test_going_on {

using kto::IntervalStrategy;
using kto::SaveStrategy;
using kto::Tensor;

namespace {

using ToyModel = decltype(toy::bigram_model());

struct Run {
  Tensor weights = {};
  kto::TrainerState state = {};
  std::vector<std::string> notes = {};

  std::string all_notes() const {
    std::string out;
    for (const std::string& note : notes) out += note + '\n';
    return out;
  }
  std::vector<double> learning_rates() const {
    std::vector<double> out;
    for (const auto& entry : state.log_history)
      if (entry.contains("learning_rate")) out.push_back(entry["learning_rate"].get<double>());
    return out;
  }
};

kto::TrainConfig steps(std::int64_t count, const kto::fs::path& folder) {
  return {.output_dir = folder.string(),
          .per_device_train_batch_size = 4,
          .max_steps = count,
          .learning_rate = 0.1,
          .lr_scheduler_type = kto::LrSchedulerType::constant,
          .logging_steps = 1,
          .save_strategy = SaveStrategy::steps,
          .save_steps = 1};
}

kto::TrainConfig going_on(kto::TrainConfig config, std::int64_t step) {
  config.resume_from_checkpoint = (kto::fs::path(config.output_dir) / kto::concat("checkpoint-", step)).string();
  config.output_dir += "_on";
  return config;
}

template <class Trainer>
Run run(Trainer trainer, const kto::EvaluationSets& sets = {}) {
  Run out;
  trainer.callbacks.push_back({.on_note = [&](const std::string& note) { out.notes.push_back(note); }});
  out.state = trainer.train(toy::rows(12), sets);
  out.weights = trainer.model.parameters[0].second.detach().clone();
  return out;
}

template <class Loss = kto::Kto, class Optimizer = kto::AdamW>
auto toy_trainer(const kto::TrainConfig& config, Loss loss = {}, Optimizer optimizer = {}) {
  const auto model = toy::bigram_model();
  return kto::Trainer{.model = model,
                      .collator = kto::PaddedCollator{},
                      .loss = std::move(loss),
                      .reference = kto::live_reference(model),
                      .config = config,
                      .optimizer = std::move(optimizer)};
}

/// The log without times.
kto::Json timeless(kto::Json log) {
  for (auto& entry : log)
    for (const char* name : {"train_runtime", "train_samples_per_second", "train_steps_per_second"}) entry.erase(name);
  return log;
}

}  // namespace

TEST_CASE("a run resumed for more steps equals the longer run, to the last bit, and reports what has changed") {
  const kto_test::TemporaryFolder folder;
  const Run whole = run(toy_trainer(steps(7, folder.path() / "whole")));
  run(toy_trainer(steps(4, folder.path() / "short")));
  auto longer = going_on(steps(4, folder.path() / "short"), 4);
  longer.max_steps = 7;
  const Run on = run(toy_trainer(longer));
  CHECK(at::equal(on.weights, whole.weights));
  CHECK(timeless(on.state.log_history) == timeless(whole.state.log_history));
  REQUIRE(on.notes.size() == 2);
  CHECK_THAT(on.notes[0], KTO_CONTAINS("resumes at step 4 with different settings: max_steps is \"7\" and was \"4\""));
  CHECK_THAT(on.notes[1], KTO_CONTAINS("from step 5 on, the learning rate follows the new settings"));

  longer.max_steps = 3;
  CHECK_THROWS_WITH(run(toy_trainer(longer)), KTO_CONTAINS("has step 4, but this run ends at step 3; raise max_steps"));
  longer.max_steps = 4;
  CHECK(run(toy_trainer(longer)).notes.empty());
}

TEST_CASE("another schedule holds from the next step on") {
  const kto_test::TemporaryFolder folder;
  auto config = steps(4, folder.path() / "out");
  config.lr_scheduler_type = kto::LrSchedulerType::linear;
  run(toy_trainer(config));
  config = going_on(config, 2);
  config.max_steps = 8, config.learning_rate = 0.2;
  const auto rates = run(toy_trainer(config)).learning_rates();
  const std::vector<double> expected{0.1, 0.075, 0.15, 0.125, 0.1, 0.075, 0.05, 0.025};
  REQUIRE(rates.size() == expected.size());
  for (std::size_t i = 0; i < rates.size(); ++i) CHECK(rates[i] == Approx(expected[i]));

  const auto rows = toy::rows(8);  // one that follows the evaluations begins at its peak
  config.lr_scheduler_type = kto::LrSchedulerType::reduce_lr_on_plateau, config.max_steps = 4;
  config.eval_strategy = IntervalStrategy::steps, config.eval_steps = 1;
  const Run plateau = run(toy_trainer(config), rows);
  CHECK(plateau.learning_rates()[2] == Approx(0.2));
  CHECK_THAT(plateau.all_notes(), KTO_CONTAINS("lr_scheduler_type is \"reduce_lr_on_plateau\" and was \"linear\"") &&
                                      KTO_CONTAINS("the rows to evaluate on are new"));
}

TEST_CASE("the log, evaluations and the best model may change on the way") {
  const kto_test::TemporaryFolder folder;
  const auto rows = toy::rows(8), others = toy::rows(6);
  auto config = steps(4, folder.path() / "out");
  config.eval_strategy = IntervalStrategy::steps, config.eval_steps = 1, config.metric_for_best_model = "loss";
  const Run whole = run(toy_trainer(config), rows);
  config = going_on(config, 2);

  auto changed = config;
  changed.logging_steps = 2, changed.save_total_limit = 1, changed.per_device_eval_batch_size = 2;
  changed.include_num_input_tokens_seen = kto::InputTokens::all;
  const Run logged = run(toy_trainer(changed), rows);
  CHECK(at::equal(logged.weights, whole.weights));
  REQUIRE(logged.notes.size() == 1);
  CHECK_THAT(logged.notes[0], KTO_CONTAINS("logging_steps is \"2\" and was \"1\"") &&
                                  KTO_CONTAINS("save_total_limit is \"1\" and was \"None\"") &&
                                  KTO_CONTAINS("per_device_eval_batch_size is \"2\" and was \"8\""));

  changed = config;
  changed.metric_for_best_model = "rewards/margins";
  const Run margins = run(toy_trainer(changed), rows);
  CHECK_THAT(margins.all_notes(), KTO_CONTAINS("earlier evaluations no longer count for the best model"));
  CHECK(*margins.state.best_metric != *whole.state.best_metric);
  CHECK(*margins.state.best_global_step > 2);

  CHECK_THAT(run(toy_trainer(config), others).all_notes(), KTO_CONTAINS("the rows to evaluate on differ (token ids") &&
                                                               KTO_CONTAINS("earlier evaluations no longer count"));
  const Run named = run(toy_trainer([&] {
                          auto by_name = config;
                          by_name.metric_for_best_model = "eval_b_loss";
                          return by_name;
                        }()),
                        {{"a", rows}, {"b", others}});
  CHECK_THAT(named.all_notes(),
             KTO_CONTAINS("the evaluation set a is new") && KTO_CONTAINS("the rows to evaluate on are gone"));
  changed = config;
  changed.eval_strategy = IntervalStrategy::no, changed.metric_for_best_model.reset();
  CHECK(at::equal(run(toy_trainer(changed)).weights, whole.weights));
}

TEST_CASE("what the trained weights depend on is refused by name") {
  const kto_test::TemporaryFolder folder;
  const auto config = steps(4, folder.path() / "out");
  run(toy_trainer(config));
  const auto refused = [&](auto change, const char* message) {
    auto changed = going_on(config, 2);
    change(changed);
    CHECK_THROWS_WITH(run(toy_trainer(changed)),
                      KTO_CONTAINS("is a checkpoint of a different run") && KTO_CONTAINS(message));
  };
  using C = kto::TrainConfig;
  refused([](C& c) { c.per_device_train_batch_size = 3; }, "per_device_train_batch_size is \"3\" and was \"4\"");
  refused([](C& c) { c.gradient_accumulation_steps = 2; }, "gradient_accumulation_steps is \"2\"");
  refused([](C& c) { c.seed = 1; }, "seed is \"1\" and was \"42\"");
  refused([](C& c) { c.desirable_weight = 2; }, "desirable_weight is \"2\"");
  refused([](C& c) { c.max_grad_norm = 2; }, "max_grad_norm is \"2\"");
  refused([](C& c) { c.kl_scope = kto::KlScope::window; }, "kl_scope is \"window\"");
  refused([](C& c) { c.train_sampling_strategy = kto::SamplingStrategy::random; },
          "train_sampling_strategy is \"random\"");
  auto other_rows = toy_trainer(going_on(config, 2));
  CHECK_THROWS_WITH(other_rows.train(toy::rows(11)), KTO_CONTAINS("the train rows are different"));
}

namespace {

struct Margin {
  static constexpr kto::BatchParts needs{};
  double margin = 0.1;
  std::vector<double> weights = {1, 2};
  template <class Array>
  kto::LossTerms<Array> operator()(const kto::LossInput<Array>& in) const {
    const Array reward_B = 0.1 * (in.policy_logp_B - in.reference_logp_B);
    return {margin - in.sign_B * reward_B, reward_B};
  }
};

struct Opaque : kto::ApoZeroUnpaired {  // a base: its members cannot be listed
  double scale = 1;
};
struct Described : Opaque {
  friend std::string describe(const Described& loss) { return kto::concat("scale ", loss.scale); }
};

/// A reference that holds its model under another name, behind a pointer.
struct Custom {
  std::shared_ptr<const ToyModel> other;
  double share = 1;
  kto::ReferenceLogps log_probs(const ToyModel&, const kto::Batch& batch) const {
    return kto::LiveReference<ToyModel>{*other}.log_probs(*other, batch);
  }
};

}  // namespace

TEST_CASE("a different loss, reference, collator or optimizer is refused; what cannot be compared is noted") {
  const kto_test::TemporaryFolder folder;
  auto saved = [&, count = 0](auto trainer) mutable {
    trainer.config.output_dir = (folder.path() / std::to_string(++count)).string();
    run(trainer);
    return going_on(trainer.config, 2);
  };
  const auto with = [](auto trainer, const kto::TrainConfig& config) {
    trainer.config = config;
    return trainer;
  };
  const auto config = steps(3, folder.path());

  auto on = saved(toy_trainer(config, Margin{}));
  CHECK(run(toy_trainer(on, Margin{})).notes.empty());
  CHECK_THROWS_WITH(run(toy_trainer(on, Margin{.margin = 0.2})),
                    KTO_CONTAINS("the loss is ") && KTO_CONTAINS("Margin {0.2, {1.0, 2.0}} and was ") &&
                        KTO_CONTAINS("Margin {0.1, {1.0, 2.0}}"));
  CHECK_THROWS_WITH(run(toy_trainer(on, Margin{.weights = {1}})), KTO_CONTAINS("Margin {0.1, {1.0}} and was "));
  CHECK_THROWS_WITH(run(toy_trainer(on, kto::Kto{})), KTO_CONTAINS("the loss is kto::Kto {0.1} and was "));
  CHECK_THROWS_WITH(run(toy_trainer(on, Margin{}, kto::Sgd{})), KTO_CONTAINS("the optimizer is kto::Sgd {"));
  CHECK_THROWS_WITH(run([&] {
                      auto trainer = toy_trainer(on, Margin{});
                      trainer.collator.max_length = 4;
                      return trainer;
                    }()),
                    KTO_CONTAINS("the collator is kto::PaddedCollator {4, none, 0, 1} and was "));

  on = saved(toy_trainer(config, kto::BcoUnpaired{}));  // its running mean is state, not identity
  CHECK(run(toy_trainer(on, kto::BcoUnpaired{.delta = 3})).notes.empty());
  CHECK_THROWS_WITH(run(toy_trainer(on, kto::BcoUnpaired{.beta = 0.2})),
                    KTO_CONTAINS("the loss is kto::BcoUnpaired {0.2, _, _}"));

  on = saved(toy_trainer(config, Opaque{}));
  CHECK_THAT(run(toy_trainer(on, Opaque{{}, 2})).all_notes(), KTO_CONTAINS("whether the loss is the one the"));
  on = saved(toy_trainer(config, Described{}));
  CHECK(run(toy_trainer(on, Described{})).notes.empty());
  CHECK_THROWS_WITH(run(toy_trainer(on, Described{{{}, 2}})), KTO_CONTAINS("Described \"scale 2\" and was "));

  const auto trainer_with = [&](const auto& reference) {
    return kto::Trainer{.model = toy::bigram_model(),
                        .collator = kto::PaddedCollator{},
                        .loss = kto::Kto{},
                        .reference = reference,
                        .config = config};
  };
  const auto model = toy::bigram_model();
  on = saved(trainer_with(kto::SyncedReference<ToyModel>{.model = frozen_copy(model), .every = 2}));
  CHECK(run(with(trainer_with(kto::SyncedReference<ToyModel>{.model = frozen_copy(model), .every = 2}), on))
            .notes.empty());
  CHECK_THROWS_WITH(
      run(with(trainer_with(kto::SyncedReference<ToyModel>{.model = frozen_copy(model), .every = 3}), on)),
      KTO_CONTAINS("the reference is kto::SyncedReference<"));
  const auto custom = [&](double change) {
    auto other = frozen_copy(model);
    other.parameters[0].second.add_(change);
    return Custom{std::make_shared<const ToyModel>(other)};
  };
  on = saved(trainer_with(custom(0)));
  CHECK(run(with(trainer_with(custom(0)), on)).notes.empty());
  CHECK_THROWS_WITH(run(with(trainer_with(custom(0.5)), on)), KTO_CONTAINS("the reference is different"));
  auto other_share = custom(0);
  other_share.share = 0.5;
  CHECK_THROWS_WITH(run(with(trainer_with(other_share), on)), KTO_CONTAINS("Custom {_, 0.5} and was "));

  auto own_rate = toy_trainer(config);
  own_rate.learning_rate = [](std::int64_t) { return 0.05; };
  on = saved(own_rate);
  CHECK_THAT(run(toy_trainer(on)).all_notes(), KTO_CONTAINS("the learning rate is a schedule and was a function"));
  own_rate = toy_trainer(on);
  own_rate.learning_rate = [](std::int64_t) { return 0.05; };
  CHECK_THAT(run(own_rate).all_notes(), KTO_CONTAINS("whether the function learning_rate is the one"));
}

}  // namespace test_going_on
