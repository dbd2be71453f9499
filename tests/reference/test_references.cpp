// SPDX-License-Identifier: Apache-2.0
// References: precomputed against live, those that follow the policy, the cache, and the checks at the start.
#include <ATen/ops/allclose.h>
#include <ATen/ops/randn_like.h>

#include "catch.hpp"
#include "examples/toy.hpp"
#include "kto/loss/kto.hpp"
#include "kto/reference/cache.hpp"
#include "kto/reference/synced.hpp"

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
  out.fill(batches, out.compute(batches, kto::PaddedCollator{}, true));
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
