// SPDX-License-Identifier: Apache-2.0
// Several ranks train as one process that has all their micro-batches; here each rank is a thread.
#include "catch.hpp"
#include "examples/toy.hpp"
#include "kto/loss/apo_zero.hpp"
#include "kto/loss/bco.hpp"
#include "kto/loss/kto.hpp"
#include "tests/data/temporary_folder.hpp"
#include "tests/dist/thread_group.hpp"

using kto::KlScope;
using kto::Tensor;
using kto::World;

namespace {

/// Two matrices, a vector without weight decay, and a parameter that is never used.
auto model(at::ScalarType type = at::kDouble) {
  const auto options = at::TensorOptions(at::kDouble);
  const auto wave = [&](at::IntArrayRef sizes, double by) {
    return at::arange(c10::multiply_integers(sizes), options).mul_(by).sin_().mul_(0.3).view(sizes).to(type).clone();
  };
  kto::NamedTensors parameters{{"embedding", wave({toy::vocabulary, 6}, 0.7)},
                               {"head", wave({toy::vocabulary, 6}, 1.3)},
                               {"bias", wave({toy::vocabulary}, 0.9)},
                               {"unused", wave({3}, 1)}};
  for (auto& [name, tensor] : parameters) tensor.requires_grad_(true);
  return kto::FunctionModel{parameters, [](const kto::NamedTensors& of, const Tensor& ids_BT, const Tensor&) {
                              return at::matmul(at::embedding(of[0].second, ids_BT), of[1].second.t()) + of[2].second;
                            }};
}

struct Seen {
  std::vector<Tensor> weights;
  kto::TrainerState state;
  kto::Json evaluation;
};

double distance(const Seen& a, const Seen& b) {
  double out = 0;
  for (std::size_t i = 0; i < a.weights.size(); ++i)
    out = std::max(out, (a.weights[i] - b.weights[i]).abs().max().item<double>());
  return out;
}

/// The largest difference of two logs in entries that do not measure time. `ignored`: beside those, by name.
double log_distance(const kto::Json& a, const kto::Json& b, const std::vector<std::string>& ignored = {}) {
  double out = 0;
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i)
    for (const auto& [key, value] : a[i].items()) {
      if (key.find("runtime") != std::string::npos || key.find("per_second") != std::string::npos || !value.is_number() ||
          std::ranges::find(ignored, key) != ignored.end())
        continue;
      INFO(i << ' ' << key << ' ' << value << ' ' << b[i].value(key, kto::Json()));
      REQUIRE(b[i].contains(key));
      const double want = value.get<double>(), gap = std::abs(b[i][key].get<double>() - want);
      CHECK(gap <= 1e-6 * (1 + std::abs(want)));
      out = std::max(out, gap);
    }
  return out;
}

template <class Loss = kto::Kto>
Seen train(kto::TrainConfig config, const World& world, int num_rows, const Loss& loss = {},
           at::ScalarType type = at::kDouble, const kto::EvaluationHooks& hooks = {}, int num_eval_rows = 0) {
  const auto rows = toy::rows(num_rows), eval_rows = toy::rows(num_eval_rows);
  const auto policy = model(type);
  kto::Trainer trainer{.model = policy,
                       .collator = kto::PaddedCollator{},
                       .loss = loss,
                       .reference = kto::live_reference(policy),
                       .config = config,
                       .evaluation = hooks,
                       .world = world};
  Seen out;
  out.state = trainer.train(rows, eval_rows);
  for (const auto& [name, tensor] : policy.parameters) out.weights.push_back(tensor.detach().clone());
  if (num_eval_rows > 0) out.evaluation = trainer.evaluate(eval_rows);
  return out;
}

/// The same on `size` ranks; all must come to the same.
template <class... Arguments>
Seen train_on(int size, const kto::TrainConfig& config, Arguments... arguments) {
  std::vector<Seen> seen(static_cast<std::size_t>(size));
  for (const auto& thrown : kto::test::run_ranks(size, [&](const World& world) {
         seen[static_cast<std::size_t>(world.rank)] = train(config, world, arguments...);
       }))
    if (thrown) std::rethrow_exception(thrown);
  for (const Seen& other : seen) {
    CHECK(distance(seen[0], other) == 0);
    CHECK(other.state.global_step == seen[0].state.global_step);
    CHECK(other.state.num_tokens == seen[0].state.num_tokens);
  }
  return seen[0];
}

kto::TrainConfig settings() {
  return {.per_device_train_batch_size = 3,
          .per_device_eval_batch_size = 2,
          .gradient_accumulation_steps = 2,
          .train_sampling_strategy = kto::SamplingStrategy::random,
          .kl_scope = KlScope::window,
          .num_train_epochs = 2,
          .learning_rate = 0.05,
          .weight_decay = 0.1,
          .max_grad_norm = 0.01,
          .logging_steps = 1};
}

}  // namespace

TEST_CASE("kl_scope window: W ranks are one process with W times the accumulation, whatever the number of rows") {
  for (const int size : {2, 4})
    for (const int num_rows : {48, 47, 25, 4, 1}) {
      INFO(size << " ranks, " << num_rows << " rows");
      const kto::TrainConfig config = settings();
      kto::TrainConfig one = config;
      one.gradient_accumulation_steps *= size;
      const Seen ranks = train_on(size, config, num_rows), alone = train(one, {}, num_rows);
      CHECK(distance(ranks, alone) < 1e-12);
      const bool even = num_rows == 48;
      log_distance(alone.state.log_history, ranks.state.log_history,
                   even ? std::vector<std::string>{} : std::vector<std::string>{"epoch"});
      CHECK(ranks.state.num_tokens == alone.state.num_tokens);
      CHECK(distance(train_on(size, config, num_rows, kto::Kto{}, at::kFloat),
                     train(one, {}, num_rows, kto::Kto{}, at::kFloat)) < 1e-6);
    }
}
