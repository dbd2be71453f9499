// SPDX-License-Identifier: Apache-2.0
// References: precomputed against live, those that follow the policy, the cache, and the checks at the start.
#include <ATen/ops/allclose.h>
#include <ATen/ops/randn_like.h>

#include "catch.hpp"
#include "examples/toy.hpp"
#include "kto/loss/apo_zero.hpp"
#include "kto/loss/kto.hpp"
#include "kto/reference/cache.hpp"
#include "kto/reference/reused.hpp"
#include "kto/reference/synced.hpp"
#include "tests/data/temporary_folder.hpp"

namespace test_references {

using kto::Tensor;
namespace fs = std::filesystem;

namespace {

auto double_model() {
  auto model = toy::bigram_model();
  model.parameters[0].second = model.parameters[0].second.detach().to(at::kDouble).requires_grad_(true);
  return model;
}
using Model = decltype(double_model());

template <class Reference>
Tensor trained(const Model& model, const Reference& reference, const kto::TrainConfig& config,
               const std::vector<kto::Example>& rows) {
  kto::Trainer trainer{.model = model,
                       .collator = kto::PaddedCollator{},
                       .loss = kto::Kto{.beta = 0.5},
                       .reference = reference,
                       .config = config};
  trainer.train(rows);
  return model.parameters[0].second.detach().clone();
}

kto::PrecomputedReference<Model> precomputed(const Model& model, const std::vector<kto::Example>& rows,
                                             const kto::TrainConfig& config, std::int64_t batch_size) {
  const kto::PrecomputedReference<Model> out{[copy = frozen_copy(model)] { return kto::LiveReference<Model>{copy}; }};
  const auto batches = kto::reference_picks(rows, config, batch_size);
  out.fill(rows, batches, out.compute(batches, kto::PaddedCollator{}, true));
  return out;
}

/// Live, with the pairs of sequential visiting in any order: the oracle of a precomputed run.
struct FixedPairsLive : kto::LiveReference<Model> {
  static constexpr bool fixes_kl_pairs = true;
};

}  // namespace

TEST_CASE("precomputed and live references train alike, whatever the order of rows and the batch of the pass") {
  const auto rows = toy::rows(22);
  for (const auto sampling :
       {kto::SamplingStrategy::sequential, kto::SamplingStrategy::random, kto::SamplingStrategy::group_by_length})
    for (const std::int64_t batch_size : {1, 5}) {
      const kto::TrainConfig config{.per_device_train_batch_size = 4,
                                    .train_sampling_strategy = sampling,
                                    .max_steps = 12,
                                    .learning_rate = 0.05};
      const Model first = double_model(), second = double_model();
      const Tensor live = trained(first, FixedPairsLive{{.model = frozen_copy(first)}}, config, rows);
      const Tensor fixed = trained(second, precomputed(second, rows, config, batch_size), config, rows);
      CHECK((live - fixed).abs().max().item<double>() < 1e-13);
    }
}

TEST_CASE("a fixed pair is never the row itself while its group has another") {
  const auto rows = toy::rows(20);
  const kto::TrainConfig config{.per_device_train_batch_size = 5,
                                .train_sampling_strategy = kto::SamplingStrategy::random};
  for (const auto& batch : kto::train_picks(rows, config, 3, {.fixed_kl = true}))
    for (const kto::Pick& pick : batch) {
      CHECK(pick.example != pick.kl_partner);
      CHECK((pick.example - rows.data()) / 5 == (pick.kl_partner - rows.data()) / 5);
    }
}

TEST_CASE("rows that were not precomputed use a newly created reference: evaluation of a new set after training") {
  const auto rows = toy::rows(16), unseen = toy::rows(10);
  const kto::TrainConfig config{.per_device_train_batch_size = 4, .max_steps = 6, .learning_rate = 0.05};
  const Model model = double_model();
  const auto frozen = frozen_copy(model);
  kto::Trainer trainer{.model = model,
                       .collator = kto::PaddedCollator{},
                       .loss = kto::Kto{},
                       .reference = precomputed(model, rows, config, 4),
                       .config = config};
  trainer.train(rows);
  kto::Trainer live{.model = model,
                    .collator = kto::PaddedCollator{},
                    .loss = kto::Kto{},
                    .reference = kto::LiveReference<Model>{frozen},
                    .config = config};
  CHECK(trainer.evaluate(unseen)["eval_loss"].get<double>() ==
        Approx(live.evaluate(unseen)["eval_loss"].get<double>()).epsilon(1e-12));
}

/// A live reference that counts the sequences it is asked about.
struct Counted {
  Model model;
  bool starts_as_policy = false;
  std::shared_ptr<std::int64_t> asked = std::make_shared<std::int64_t>(0);

  static constexpr bool is_frozen() { return true; }
  kto::ReferenceLogps log_probs(const Model& policy, const kto::Batch& batch) const {
    *asked += batch.rows.num_rows + (batch.kl_rows ? batch.kl_rows->num_rows : 0);
    return kto::LiveReference<Model>{model}.log_probs(policy, batch);
  }
};

struct Reusing {
  Tensor weights;
  kto::Json log;
  std::int64_t asked = 0;   ///< sequences, by the reference
  bool holds_model = true;  ///< at the end
  double unseen_loss = 0;   ///< of rows that were no part of the run
};

/// A run of 22 rows, evaluated on 10 others, with or without reuse of the reference's log-probs.
template <class Loss>
Reusing reusing(const Loss& loss, const kto::TrainConfig& config, bool reuses, bool streams = false,
                bool starts_as_policy = false) {
  const auto rows = toy::rows(22), held_out = toy::rows(10), unseen = toy::rows(9);
  const Model model = double_model();
  const Counted counted{frozen_copy(model), starts_as_policy};
  auto reference = kto::reused<Counted>(counted, [counted] { return counted; });
  reference.reuses = reuses;
  kto::Trainer trainer{
      .model = model, .collator = kto::PaddedCollator{}, .loss = loss, .reference = reference, .config = config};
  const kto::RowStream stream([&rows] {
    return [&rows, done = false]() mutable { return std::exchange(done, true) ? std::vector<kto::Example>() : rows; };
  });
  const auto state = streams ? trainer.train(stream, held_out) : trainer.train(rows, held_out);
  Reusing out{
      .weights = model.parameters[0].second.detach().clone(), .log = state.log_history, .asked = *counted.asked};
  for (auto& entry : out.log)
    for (const char* name : {"runtime", "samples_per_second", "steps_per_second"})
      for (const char* prefix : {"train_", "eval_"}) entry.erase(std::string(prefix) + name);
  out.holds_model = reference.held->has_value();
  out.unseen_loss = trainer.evaluate(unseen)["eval_loss"].template get<double>();
  return out;
}

TEST_CASE("a frozen reference is asked once about rows, pairs and evaluations, with the numbers of asking each time") {
  kto::TrainConfig config{.per_device_train_batch_size = 4,
                          .per_device_eval_batch_size = 3,
                          .gradient_accumulation_steps = 2,
                          .learning_rate = 0.05,
                          .logging_steps = 1,
                          .eval_strategy = kto::IntervalStrategy::epoch};
  for (const auto scope : {kto::KlScope::micro_batch, kto::KlScope::window}) {
    config.kl_scope = scope;
    const Reusing without = reusing(kto::Kto{}, config, false), with = reusing(kto::Kto{}, config, true);
    CHECK(at::equal(without.weights, with.weights));
    CHECK(without.log == with.log);
    CHECK((without.asked == 3 * (44 + 20) && with.asked == 44 + 20));
    CHECK((without.holds_model && !with.holds_model));
    CHECK(without.unseen_loss == with.unseen_loss);  // it is made again
  }
  config.kl_scope = kto::KlScope::micro_batch;
  config.train_sampling_strategy = kto::SamplingStrategy::random;
  const Reusing without = reusing(kto::Kto{}, config, false), with = reusing(kto::Kto{}, config, true);
  CHECK((without.weights - with.weights).abs().max().item<double>() < 1e-12);
  CHECK((with.asked == 44 + 2 * 22 + 20 && with.holds_model));  // pairs have new partners
  const Reusing alone = reusing(kto::ApoZeroUnpaired{}, config, true);
  CHECK((alone.asked == 22 + 10 && !alone.holds_model));
  config.train_sampling_strategy = kto::SamplingStrategy::sequential;
  config.max_steps = 9;
  const Reusing streamed = reusing(kto::Kto{}, config, true, /*streams=*/true);
  CHECK(streamed.log == reusing(kto::Kto{}, config, false, /*streams=*/true).log);
  CHECK(streamed.holds_model);
}

TEST_CASE("an evaluation before training computes once what policy and reference have in common") {
  kto::TrainConfig config{.per_device_train_batch_size = 4,
                          .per_device_eval_batch_size = 3,
                          .learning_rate = 0.05,
                          .eval_strategy = kto::IntervalStrategy::epoch,
                          .eval_on_start = true};
  for (const bool reuses : {false, true}) {
    const Reusing apart = reusing(kto::Kto{}, config, reuses),
                  once = reusing(kto::Kto{}, config, reuses, /*streams=*/false, /*starts_as_policy=*/true);
    CHECK(at::equal(apart.weights, once.weights));
    CHECK(apart.log == once.log);
    CHECK(once.asked == apart.asked - 20);
    CHECK(once.holds_model == !reuses);
    CHECK(apart.unseen_loss == once.unseen_loss);
  }
}

TEST_CASE("a resumed run reuses the log-probs of its checkpoint, to the last bit") {
  const kto_test::TemporaryFolder folder;
  kto::TrainConfig config{.output_dir = (folder.path() / "whole").string(),
                          .per_device_train_batch_size = 4,
                          .train_sampling_strategy = kto::SamplingStrategy::random,
                          .learning_rate = 0.05,
                          .save_strategy = kto::SaveStrategy::steps,
                          .save_steps = 8};
  const Reusing whole = reusing(kto::Kto{}, config, true);
  config.resume_from_checkpoint = config.output_dir + "/checkpoint-8";
  config.output_dir += "_on";
  const Reusing resumed = reusing(kto::Kto{}, config, true);
  CHECK(at::equal(whole.weights, resumed.weights));
  CHECK(resumed.asked == (22 - 8) + 22);  // pairs with new partners alone
}

TEST_CASE("TR-DPO: every few updates the reference moves by its share; alpha 1 makes it the policy") {
  const Model model = double_model();
  const Tensor start = model.parameters[0].second.detach().clone();
  kto::SyncedReference<Model> reference{.model = frozen_copy(model), .alpha = 0.25, .every = 3};
  {
    const at::NoGradGuard no_grad;
    model.parameters[0].second.add_(1);
  }
  reference.follow(model, 1);
  reference.follow(model, 2);
  CHECK(at::equal(reference.model.parameters[0].second, start));
  reference.follow(model, 3);
  CHECK(at::allclose(reference.model.parameters[0].second, start + 0.25, 1e-12, 1e-12));
  reference.alpha = 1;
  reference.follow(model, 6);
  CHECK(at::equal(reference.model.parameters[0].second, model.parameters[0].second));
  CHECK_FALSE(reference.model.parameters[0].second.requires_grad());
}

TEST_CASE("a reference with other parameters than the policy's cannot follow it") {
  const Model model = double_model();
  const auto refusal = [&](auto change) {
    Model other = frozen_copy(model);
    change(other.parameters);
    return kto::SyncedReference<Model>{.model = other, .every = 1}.follow(model, 1);
  };
  CHECK_NOTHROW(refusal([](auto& parameters) { parameters[0].second = parameters[0].second + 1; }));
  CHECK_THROWS_WITH(refusal([](auto& parameters) { parameters[0].first = "other"; }),
                    KTO_CONTAINS("it has no " + model.parameters[0].first + " of shape"));
  CHECK_THROWS_WITH(refusal([](auto& parameters) { parameters[0].second = parameters[0].second.narrow(0, 0, 1); }),
                    KTO_CONTAINS("of shape"));
  CHECK_THROWS_WITH(refusal([](auto& parameters) { parameters.emplace_back("more", parameters[0].second); }),
                    KTO_CONTAINS("the policy, which has no more"));
}

TEST_CASE("a moving average of the policy, in training") {
  const auto rows = toy::rows(16);
  const kto::TrainConfig config{.per_device_train_batch_size = 4, .max_steps = 3, .learning_rate = 0.05};
  const Model model = double_model();
  Tensor average = model.parameters[0].second.detach().clone();
  kto::Callback follow;
  follow.on_step_end = [&](const kto::TrainerState&, kto::Control&) {
    average = 0.75 * average + 0.25 * model.parameters[0].second.detach();
  };
  kto::Trainer trainer{.model = model,
                       .collator = kto::PaddedCollator{},
                       .loss = kto::Kto{},
                       .reference = kto::EmaReference<Model>{.model = frozen_copy(model), .decay = 0.75},
                       .config = config,
                       .callbacks = {follow}};
  trainer.train(rows);
  CHECK(at::allclose(trainer.reference.model.parameters[0].second, average, 1e-12, 1e-12));
}

/// References that hold their model under a name of their own, or privately.
struct Frozen {
  Model frozen;
  kto::ReferenceLogps log_probs(const Model& policy, const kto::Batch& batch) const {
    return kto::LiveReference<Model>{frozen}.log_probs(policy, batch);
  }
};
class Private {
 public:
  explicit Private(Model model) : model_(std::move(model)) {}
  kto::ReferenceLogps log_probs(const Model& policy, const kto::Batch& batch) const {
    return kto::LiveReference<Model>{model_}.log_probs(policy, batch);
  }
  template <class Visit>
  void visit_models(const Visit& visit) const {
    visit(model_);
  }

 private:
  Model model_;
};

TEST_CASE("a wrong reference is an error before anything changes") {
  const auto rows = toy::rows(8);
  const kto::TrainConfig config{.per_device_train_batch_size = 4, .max_steps = 2};
  const Model model = double_model();
  CHECK_THROWS_WITH(trained(model, kto::LiveReference<Model>{model}, config, rows),
                    KTO_CONTAINS("the reference is the policy itself"));
  CHECK_THROWS_WITH(trained(model, Frozen{model}, config, rows), KTO_CONTAINS("the reference is the policy itself"));
  CHECK_THROWS_WITH(trained(model, Private{model}, config, rows), KTO_CONTAINS("the reference is the policy itself"));
  trained(double_model(), Frozen{frozen_copy(model)}, config, rows);
  Model other = frozen_copy(model);
  other.parameters[0].second.set_requires_grad(true);
  CHECK_THROWS_WITH(trained(model, kto::LiveReference<Model>{other}, config, rows), KTO_CONTAINS("records gradients"));
  const auto reference = kto::live_reference(model);
  {
    const at::NoGradGuard no_grad;
    model.parameters[0].second.add_(at::randn_like(model.parameters[0].second));
  }
  CHECK_THROWS_WITH(trained(model, reference, config, rows),
                    KTO_CONTAINS("although the reference was made from the policy"));
}

TEST_CASE("a second run of the same trainer goes on from trained weights, which its reference no longer equals") {
  const Model model = double_model();
  kto::Trainer trainer{.model = model,
                       .collator = kto::PaddedCollator{},
                       .loss = kto::Kto{},
                       .reference = kto::live_reference(model),
                       .config = {.per_device_train_batch_size = 4, .max_steps = 2, .learning_rate = 0.5}};
  trainer.train(toy::rows(8));
  trainer.train(toy::rows(8));
  CHECK(trainer.num_updates == 4);
  CHECK(trainer.reference.starts_as_policy);  // the trainer changes nothing in it
}

TEST_CASE("cache: what is read is what was kept; another row, pair, weight or option is another key") {
  const fs::path folder = fs::temp_directory_path() / ("kto_cache_" + std::to_string(::getpid()));
  auto rows = toy::rows(6);
  const kto::TrainConfig config{.per_device_train_batch_size = 3};
  const Model model = double_model();
  const auto key = [&](const kto::TrainConfig& with, bool with_kl, const std::string& options) {
    return kto::reference_key(kto::reference_picks(rows, with, 2), with_kl, model, options);
  };
  const std::string first = key(config, true, "max_length 9");
  CHECK(first == kto::reference_key(kto::reference_picks(rows, config, 2), true, frozen_copy(model), "max_length 9"));
  CHECK(first != key(config, false, "max_length 9"));
  CHECK(first != key(config, true, "max_length 8"));
  CHECK(first != key({.per_device_train_batch_size = 2}, true, "max_length 9"));  // other KL partners
  rows[5].completion_ids.back() += 1;
  CHECK(first != key(config, true, "max_length 9"));
  rows[5].completion_ids.back() -= 1;
  {
    const at::NoGradGuard no_grad;
    model.parameters[0].second[3][4].add_(1e-9);
  }
  CHECK(first != key(config, true, "max_length 9"));

  const std::vector<kto::RowLogps> logps{{-1.5, -2.5}, {-3, 1e-300}};
  CHECK_FALSE(kto::read_reference_cache(folder, first, 2));
  kto::write_reference_cache(folder, first, logps);
  const auto back = kto::read_reference_cache(folder, first, 2);
  REQUIRE(back);
  CHECK(((*back)[1].logp == -3 && (*back)[1].kl_logp == 1e-300));

  CHECK_THROWS_WITH(kto::read_reference_cache(folder, first, 3), KTO_CONTAINS("logp of 3 rows"));
  fs::remove_all(folder);
}

}  // namespace test_references
