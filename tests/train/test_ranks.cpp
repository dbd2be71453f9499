// SPDX-License-Identifier: Apache-2.0
// Several ranks train as one process that has all their micro-batches; here each rank is a thread, in which Catch checks
// nothing: it throws.
#include "catch.hpp"
#include "examples/toy.hpp"
#include "kto/loss/apo_zero.hpp"
#include "kto/loss/bco.hpp"
#include "kto/loss/kto.hpp"
#include "kto/optim/any.hpp"
#include "kto/reference/synced.hpp"
#include "tests/data/temporary_folder.hpp"
#include "tests/dist/thread_group.hpp"

namespace test_ranks {

using kto::KlScope;
using kto::Tensor;
using kto::World;

namespace {

/// Two matrices, a vector without weight decay, and a parameter that is never used.
auto model(at::ScalarType type = at::kDouble, std::int64_t width = 6) {
  const auto options = at::TensorOptions(at::kDouble);
  const auto wave = [&](at::IntArrayRef sizes, double by) {
    return at::arange(c10::multiply_integers(sizes), options).mul_(by).sin_().mul_(0.3).view(sizes).to(type).clone();
  };
  kto::NamedTensors parameters{{"embedding", wave({toy::vocabulary, width}, 0.7)},
                               {"head", wave({toy::vocabulary, width}, 1.3)},
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

/// The entries of two logs that are no means over micro-steps are equal.
void check_logs(const kto::Json& a, const kto::Json& b) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i)
    for (const auto& [key, value] : a[i].items()) {
      const bool is_sum = key.ends_with("_sum") || key.find("count/") != std::string::npos;
      if (!is_sum && key != "loss" && key != "eval_loss" && key != "grad_norm" && key != "learning_rate" &&
          key != "kl" && !key.ends_with("num_tokens") && key != "total_flos" && key != "train_loss" && key != "step")
        continue;
      INFO(i << ' ' << key << ' ' << value << ' ' << b[i].value(key, kto::Json()));
      REQUIRE(b[i].contains(key));
      const double want = value.get<double>(), gap = std::abs(b[i][key].get<double>() - want);
      CHECK(gap <= 1e-6 * (1 + std::abs(want)));
    }
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
      check_logs(alone.state.log_history, ranks.state.log_history);
      CHECK(ranks.state.num_tokens == alone.state.num_tokens);
      CHECK(distance(train_on(size, config, num_rows, kto::Kto{}, at::kFloat),
                     train(one, {}, num_rows, kto::Kto{}, at::kFloat)) < 1e-6);
    }
}

TEST_CASE("a loss without a baseline: W ranks with b rows each are one process with W * b rows") {
  for (const int size : {2, 4})
    for (const int num_rows : {48, 31}) {
      kto::TrainConfig config = settings(), one = config;
      config.kl_scope = one.kl_scope = KlScope::micro_batch;
      one.per_device_train_batch_size *= size;
      const Seen ranks = train_on(size, config, num_rows, kto::ApoZeroUnpaired{});
      const Seen alone = train(one, {}, num_rows, kto::ApoZeroUnpaired{});
      CHECK(distance(ranks, alone) < 1e-12);
      for (std::size_t i = 0; i < ranks.state.log_history.size();
           ++i)  // here micro-steps are the same, and so all means
        for (const auto& [key, value] : alone.state.log_history[i].items()) {
          if (key.find("runtime") != std::string::npos || key.find("per_second") != std::string::npos) continue;
          INFO(i << ' ' << key);
          CHECK(ranks.state.log_history[i].at(key).get<double>() == Approx(value.get<double>()).margin(1e-9));
        }
    }
}

TEST_CASE("a loss that observes rows sees those of all ranks") {
  kto::TrainConfig config = settings(), one = config;
  config.kl_scope = one.kl_scope = KlScope::micro_batch;
  one.per_device_train_batch_size *= 2;
  CHECK(distance(train_on(2, config, 31, kto::BcoUnpaired{}), train(one, {}, 31, kto::BcoUnpaired{})) < 1e-12);
}

TEST_CASE("ranks share the rows of an evaluation, each once, and hooks see all of them in order") {
  kto::TrainConfig config = settings(), one = config;
  config.eval_strategy = one.eval_strategy = kto::IntervalStrategy::epoch;
  one.per_device_eval_batch_size *= 4;
  one.gradient_accumulation_steps *= 4;
  const kto::EvaluationHooks hooks{.compute_metrics = [](const kto::EvalPrediction& seen) {
    const Tensor place = at::arange(1, seen.reward_B.numel() + 1, at::TensorOptions(at::kDouble));
    return kto::Json{
        {"mine", (seen.reward_B * place).sum().item<double>()},
        {"rows", (seen.row_C.to(at::kDouble) * at::arange(seen.row_C.numel(), at::kDouble)).sum().item<double>()}};
  }};
  for (const int num_eval_rows : {16, 13, 3}) {
    const Seen ranks = train_on(4, config, 24, kto::ApoZeroUnpaired{}, at::kDouble, hooks, num_eval_rows);
    const Seen alone = train(one, {}, 24, kto::ApoZeroUnpaired{}, at::kDouble, hooks, num_eval_rows);
    for (const char* name : {"eval_loss", "eval_mine", "eval_rows", "eval_rewards/margins", "eval_entropy"}) {
      INFO(num_eval_rows << " rows, " << name);
      CHECK(ranks.evaluation.at(name).get<double>() == Approx(alone.evaluation.at(name).get<double>()).margin(1e-12));
    }
    check_logs(alone.state.log_history, ranks.state.log_history);
  }
}

TEST_CASE("a checkpoint resumes on any number of ranks: the same to the bit on as many, within rounding on others") {
  for (const KlScope scope : {KlScope::micro_batch, KlScope::window}) {
    const kto_test::TemporaryFolder folder;
    const auto config_in = [&](const std::string& name, std::int64_t steps) {
      kto::TrainConfig config = settings();
      config.kl_scope = scope;
      config.output_dir = (folder.path() / name).string();
      config.gradient_accumulation_steps = steps;
      config.logging_steps = 3;
      config.save_strategy = kto::SaveStrategy::steps;
      config.save_steps = 2;
      return config;
    };
    const Seen whole = train_on(2, config_in("whole", 4), 55);  // 5 updates in two epochs of 19 micro-batches
    const auto going_on = [&](const std::string& name, std::int64_t steps, const std::string& from, std::int64_t step) {
      kto::TrainConfig config = config_in(name, steps);
      config.resume_from_checkpoint = (folder.path() / from / kto::concat("checkpoint-", step)).string();
      return config;
    };
    for (const std::int64_t step : {2, 4}) {
      const Seen same = train_on(2, going_on(kto::concat("same", step), 4, "whole", step), 55);
      CHECK(distance(whole, same) == 0);
      check_logs(whole.state.log_history, same.state.log_history);
    }
    const Seen alone = train(going_on("alone", 8, "whole", 2), {}, 55);
    CHECK(distance(whole, alone) < 1e-12);
    check_logs(whole.state.log_history, alone.state.log_history);
    const Seen four = train_on(4, going_on("four", 2, "alone", 4), 55);  // and from there on others again
    CHECK(distance(whole, four) < 1e-12);
    check_logs(whole.state.log_history, four.state.log_history);
    CHECK(whole.state.epoch == four.state.epoch);
    CHECK_THROWS_WITH(train(going_on("wrong", 4, "whole", 2), {}, 55), KTO_CONTAINS("those of 2 with 4: set it to 8"));
  }
}

namespace {

/// Calls `before` before each batch.
struct Watched {
  static constexpr kto::BatchParts provides = kto::PaddedCollator::provides;
  std::function<void()> before;
  kto::Batch operator()(std::span<const kto::Pick> picks, bool with_kl) const {
    before();
    return kto::PaddedCollator{}(picks, with_kl);
  }
};

/// Calls `before` before each loss; the loss of a row of more than 3 tokens is not finite.
struct Fragile {
  static constexpr kto::BatchParts needs{.kl_pairs = true};
  std::function<void()> before = [] {};
  kto::LossTerms<Tensor> operator()(const kto::LossInput<Tensor>& in) const {
    before();
    const Tensor reward_B = in.policy_logp_B - in.reference_logp_B - in.baseline;
    return {.loss_B = -in.sign_B * reward_B / in.length_B.lt(3.5).to(at::kDouble) - 1, .reward_B = reward_B};
  }
};

std::vector<std::string> messages(const std::vector<std::exception_ptr>& thrown) {
  std::vector<std::string> out;
  for (const auto& each : thrown) try {
      if (each) std::rethrow_exception(each);
      out.emplace_back();
    } catch (const std::exception& error) {
      out.emplace_back(error.what());
    } catch (const kto::Interrupted&) {
      out.emplace_back("interrupted");
    }
  return out;
}

}  // namespace

TEST_CASE("one rank fails, in its batches or its passes: all end, and the one says why") {
  const auto rows = toy::rows(48);
  for (const bool in_loss : {false, true})
    for (const KlScope scope : {KlScope::micro_batch, KlScope::window}) {
      const auto thrown = kto::test::run_ranks(3, [&](const World& world) {
        const auto policy = model();
        int calls = 0;
        const auto fail_once = [&] { kto::check(world.rank != 1 || ++calls != 3, "number 3 of rank 1 is bad"); };
        kto::TrainConfig config = settings();
        config.kl_scope = scope;
        kto::Trainer trainer{.model = policy,
                             .collator = Watched{in_loss ? std::function<void()>([] {}) : fail_once},
                             .loss = Fragile{in_loss ? std::function<void()>(fail_once) : [] {}},
                             .reference = kto::live_reference(policy),
                             .config = config,
                             .world = world};
        trainer.train(rows);
      });
      CHECK(messages(thrown) ==
            std::vector<std::string>{"rank 1 failed", "number 3 of rank 1 is bad", "rank 1 failed"});
    }
}

TEST_CASE("an update that is not finite on one rank is skipped on all, or ends them") {
  auto rows = toy::rows(48);
  rows[14].completion_ids.push_back(1);  // in the third micro-batch of three rows, of the first update
  const auto run = [&](const World& world, std::int64_t steps, kto::NonFiniteLoss what) {
    const auto policy = model();
    kto::TrainConfig config = settings();
    config.train_sampling_strategy = kto::SamplingStrategy::sequential;
    config.gradient_accumulation_steps = steps;
    config.nonfinite_loss = what;
    std::vector<std::string> notes;
    kto::Trainer trainer{.model = policy,
                         .collator = kto::PaddedCollator{},
                         .loss = Fragile{},
                         .reference = kto::live_reference(policy),
                         .config = config,
                         .callbacks = {{.on_note = [&](const std::string& note) { notes.push_back(note); }}},
                         .world = world};
    trainer.train(rows);
    kto::check(notes.size() == (world.is_first() ? 1 : 0), "rank ", world.rank, " has ", notes.size(), " notes");
    return policy.parameters[0].second.detach().clone();
  };
  const Tensor alone = run({}, 8, kto::NonFiniteLoss::skip);
  const auto check_all = [](const std::vector<std::exception_ptr>& thrown) {
    for (const auto& each : thrown)
      if (each) std::rethrow_exception(each);
  };
  check_all(kto::test::run_ranks(4, [&](const World& world) {
    const double gap = (run(world, 2, kto::NonFiniteLoss::skip) - alone).abs().max().item<double>();
    kto::check(gap < 1e-12, "other weights than alone: ", gap);
  }));
  const auto texts =
      messages(kto::test::run_ranks(2, [&](const World& world) { run(world, 4, kto::NonFiniteLoss::stop); }));
  for (const std::string& text : texts) CHECK_THAT(text, KTO_CONTAINS("the loss is not finite for row 15"));
}

namespace {

/// Wide enough for matrices that are cut, in the middle of blocks of 8-bit moments' parameters.
constexpr std::int64_t wide = 1000;

Seen train_wide(const kto::TrainConfig& config, const World& world, const kto::AnyOptimizer& optimizer,
                at::ScalarType type) {
  const auto rows = toy::rows(25);
  const auto policy = model(type, wide);
  policy.parameters[2].second.requires_grad_(type == at::kFloat);  // or frozen
  kto::Trainer trainer{.model = policy,
                       .collator = kto::PaddedCollator{},
                       .loss = kto::Kto{},
                       .reference = kto::live_reference(policy),
                       .config = config,
                       .optimizer = optimizer,
                       .world = world};
  Seen out;
  out.state = trainer.train(rows);
  for (const auto& [name, tensor] : policy.parameters) out.weights.push_back(tensor.detach().clone());
  return out;
}

Seen train_wide_on(int size, kto::TrainConfig config, std::int64_t stage, const kto::AnyOptimizer& optimizer,
                   at::ScalarType type) {
  config.zero_stage = stage;
  std::vector<Seen> seen(static_cast<std::size_t>(size));
  for (const auto& thrown : kto::test::run_ranks(size, [&](const World& world) {
         seen[static_cast<std::size_t>(world.rank)] = train_wide(config, world, optimizer, type);
       }))
    if (thrown) std::rethrow_exception(thrown);
  for (const Seen& other : seen) CHECK(distance(seen[0], other) == 0);
  return seen[0];
}

kto::TrainConfig wide_settings() {
  kto::TrainConfig config = settings();
  config.learning_rate = 1e-3;
  config.num_train_epochs = 1;
  config.max_grad_norm = 0.5;
  return config;
}

void check_stages(const kto::AnyOptimizer& optimizer, at::ScalarType type, double margin) {
  for (const int size : {2, 4}) {
    INFO(size << " ranks, " << "optimizer " << optimizer.chosen.index());
    kto::TrainConfig config = wide_settings();
    config.gradient_accumulation_steps = 4 / size;
    const Seen none = train_wide_on(size, config, 0, optimizer, type);
    CHECK(distance(none, train_wide_on(size, config, 1, optimizer, type)) == 0);
    const Seen two = train_wide_on(size, config, 2, optimizer, type);
    CHECK(distance(none, two) <= margin);
    check_logs(none.state.log_history, two.state.log_history);
  }
}

}  // namespace

TEST_CASE("zero_stage: shards of the optimizer's state, and of gradients, change no update of any optimizer") {
  check_stages({kto::AdamW{.weight_decay = 0.1}}, at::kDouble, 1e-12);
  check_stages({kto::Sgd{.momentum = 0.9, .dampening = 0.5, .weight_decay = 0.1}}, at::kDouble, 1e-12);
  check_stages({kto::RmsProp{.momentum = 0.9, .centered = true}}, at::kDouble, 1e-12);
  check_stages({kto::Adagrad{.weight_decay = 0.1}}, at::kDouble, 1e-12);
  check_stages({kto::Adafactor{.weight_decay = 0.1}}, at::kDouble, 1e-12);
  check_stages({kto::AdamWBf16{}}, at::kFloat, 1e-5);
  check_stages({kto::AdamW8Bit{}}, at::kFloat, 1e-5);
  check_stages({kto::AdamW8Bit{}}, at::kBFloat16, 1e-2);
}

TEST_CASE("the sums of gradients in many buckets are the same whole and in shards, with weights that are used twice") {
  for (const auto& thrown : kto::test::run_ranks(3, [&](const World& world) {
         std::vector<Tensor> grads[2];
         for (const bool sharded : {false, true}) {
           kto::NamedTensors parameters;
           for (int i = 0; i < 9; ++i)
             parameters.emplace_back(kto::concat("w", i),
                                     at::full({i % 3 == 0 ? 5 : 9000}, i, at::kDouble).requires_grad_());
           const kto::FunctionModel policy{
               parameters, [](const kto::NamedTensors&, const Tensor& ids_BT, const Tensor&) { return ids_BT; }};
           const kto::FlatParameters flat = kto::flatten_parameters(policy);
           const kto::Shards shards(flat, world.size, /*inside=*/true);
           const kto::FlatParameters own = shards.shard(flat, world.rank);
           kto::GradientSum sum(world, flat, sharded ? &shards : nullptr, &own, /*most_bytes=*/40000);
           for (int update = 0; update < 3; ++update) {
             flat.groups[0].slices[0].parameter.mutable_grad() = Tensor();
             for (kto::FlatParameters each : {flat, own}) each.zero_grad();
             if (world.rank < 2) {  // the last rank has no pass
               Tensor loss = at::zeros({}, at::kDouble);
               for (int i = 0; i < 9; ++i)
                 if (i != 4)
                   loss = loss + (parameters[static_cast<std::size_t>(i)].second * (world.rank + 1)).square().sum();
               sum.listen();
               (loss + parameters[1].second.sum()).backward();
             }
             sum.finish();
           }
           for (std::size_t i = 0; i < 9; ++i) {
             const kto::FlatSlice &whole = flat.groups[0].slices[i], &part = own.groups[0].slices[i];
             const Tensor grad = (sharded ? part : whole).parameter.grad();
             kto::check(grad.defined() == (i != 4), i, " has ", grad.defined() ? "a" : "no", " gradient");
             if (!grad.defined()) continue;
             kto::check(!sharded || part.numel > 0 || grad.storage().nbytes() == 0, i,
                        " holds another rank's gradient");
             kto::check(!sharded || !whole.parameter.grad().defined(), i, " has a whole gradient");
             grads[sharded].push_back(sharded ? grad : grad.narrow(0, part.offset, part.numel));
           }
         }
         for (std::size_t i = 0; i < 8; ++i)
           kto::check(at::equal(grads[0][i], grads[1][i]), "gradient ", i, " differs");
       }))
    if (thrown) std::rethrow_exception(thrown);
}

TEST_CASE("zero_stage: checkpoints are whole, and resume on any number of ranks and in any stage") {
  for (const kto::AnyOptimizer& optimizer :
       {kto::AnyOptimizer{kto::AdamW{}}, kto::AnyOptimizer{kto::AdamW8Bit{}}, kto::AnyOptimizer{kto::Adafactor{}}}) {
    const kto_test::TemporaryFolder folder;
    const bool codes = std::holds_alternative<kto::AdamW8Bit>(optimizer.chosen);
    const at::ScalarType type = codes ? at::kFloat : at::kDouble;
    const auto config_in = [&](const std::string& name, int size, const std::string& from = "") {
      kto::TrainConfig config = wide_settings();
      config.output_dir = (folder.path() / name).string();
      config.gradient_accumulation_steps = 4 / size;
      config.num_train_epochs = 2;
      config.save_strategy = kto::SaveStrategy::steps;
      config.save_steps = 2;
      if (!from.empty()) config.resume_from_checkpoint = (folder.path() / from).string();
      return config;
    };
    const auto run = [&](const std::string& name, int size, std::int64_t stage, const std::string& from = "") {
      INFO("optimizer " << optimizer.chosen.index() << ": " << name);
      return train_wide_on(size, config_in(name, size, from), stage, optimizer, type);
    };
    const auto check_same = [&](const Seen& a, const Seen& b) {
      CHECK(distance(a, b) <= (codes ? 1e-5 : 1e-12));
      check_logs(a.state.log_history, b.state.log_history);
    };
    const Seen none = run("none", 2, 0), one = run("one", 2, 1), two = run("two", 2, 2);
    CHECK(distance(none, run("one more", 2, 1, "one/checkpoint-2")) == 0);
    CHECK(distance(two, run("two more", 2, 2, "two/checkpoint-4")) == 0);
    CHECK(distance(none, run("none to one", 2, 1, "none/checkpoint-2")) == 0);
    CHECK(distance(none, run("one to none", 2, 0, "one/checkpoint-2")) == 0);
    check_same(none, run("two to one", 2, 1, "two/checkpoint-4"));
    check_same(none, run("two to four", 4, 2, "two/checkpoint-2"));
    check_same(none, train_wide(config_in("alone", 1, "one/checkpoint-2"), {}, optimizer, type));
    check_same(none, run("alone to two", 2, 2, "alone/checkpoint-4"));
    const kto::SafetensorsFile whole(folder.path() / "none/checkpoint-2/optimizer.safetensors");
    const kto::SafetensorsFile merged(folder.path() / "one/checkpoint-2/optimizer.safetensors");
    for (const std::string& name : whole.names())
      CHECK(at::equal(whole.tensor(name).reshape(-1), merged.tensor(name).reshape(-1)));
    CHECK(whole.names().size() == merged.names().size());
  }
}

TEST_CASE("a reference that follows the policy, the best model and early stopping are on ranks as on one process") {
  const kto_test::TemporaryFolder folder;
  const auto run = [&](const World& world, std::int64_t stage, bool loads_best, const std::string& resumed = "") {
    const auto rows = toy::rows(25), eval_rows = toy::rows(7);
    const auto policy = model(), start = model();
    for (const auto& [name, tensor] : start.parameters) tensor.requires_grad_(false);
    kto::TrainConfig config = settings();
    config.zero_stage = stage;
    config.gradient_accumulation_steps = 4 / world.size;
    config.per_device_eval_batch_size = world.alone() ? 4 : 2;
    config.eval_strategy = kto::IntervalStrategy::steps;
    config.eval_steps = 1;
    config.save_strategy = kto::SaveStrategy::steps;
    config.save_steps = 1;
    config.num_train_epochs = 3;
    if (loads_best) {  // the worst, which comes first
      config.greater_is_better = true;
      config.load_best_model_at_end = true;
      config.early_stopping_patience = 5;
    }
    config.output_dir = (folder.path() / kto::concat("out", world.size, stage, loads_best, resumed.empty())).string();
    if (!resumed.empty()) config.resume_from_checkpoint = (folder.path() / resumed / "checkpoint-3").string();
    kto::Trainer trainer{.model = policy,
                         .collator = kto::PaddedCollator{},
                         .loss = kto::Kto{},
                         .reference = kto::SyncedReference{.model = start, .alpha = 0.5, .every = 2},
                         .config = config,
                         .world = world};
    Seen out;
    out.state = trainer.train(rows, eval_rows);
    for (const kto::NamedTensors& parameters : {policy.parameters, trainer.reference.model.parameters})
      for (const auto& [name, tensor] : parameters) out.weights.push_back(tensor.detach().clone());
    return out;
  };
  const auto on_ranks = [&](auto... how) {
    std::vector<Seen> seen(2);
    for (const auto& thrown : kto::test::run_ranks(
             2, [&](const World& world) { seen[static_cast<std::size_t>(world.rank)] = run(world, how...); }))
      if (thrown) std::rethrow_exception(thrown);
    CHECK(distance(seen[0], seen[1]) == 0);
    CHECK(seen[0].state.best_global_step == seen[1].state.best_global_step);
    return seen[0];
  };
  for (const bool loads_best : {false, true}) {
    const Seen alone = run({}, 0, loads_best);
    for (const std::int64_t stage : {0, 1, 2}) {
      INFO("stage " << stage << ", best model " << loads_best);
      const Seen ranks = on_ranks(stage, loads_best);
      CHECK(distance(alone, ranks) < 1e-12);
      check_logs(alone.state.log_history, ranks.state.log_history);
      CHECK(ranks.state.global_step == alone.state.global_step);
      CHECK(ranks.state.best_global_step == alone.state.best_global_step);
      CHECK(ranks.state.best_model_checkpoint.has_value() == loads_best);
      if (!loads_best) CHECK(distance(ranks, on_ranks(stage, loads_best, kto::concat("out2", stage, "01"))) == 0);
    }
    if (loads_best) CHECK(alone.state.best_global_step < alone.state.global_step);
  }
}

TEST_CASE("rows that come as a stream are shared as those in memory") {
  kto::TrainConfig config = settings(), one = config;
  config.train_sampling_strategy = one.train_sampling_strategy = kto::SamplingStrategy::sequential;
  config.max_steps = one.max_steps = 6;
  one.gradient_accumulation_steps *= 2;
  const auto stream = [] {
    return kto::RowStream{
        [] { return std::function([left = toy::rows(31)]() mutable { return std::exchange(left, {}); }); }};
  };
  const auto weights = [&](const kto::TrainConfig& of, const World& world) {
    const auto policy = model();
    kto::Trainer trainer{.model = policy,
                         .collator = kto::PaddedCollator{},
                         .loss = kto::Kto{},
                         .reference = kto::live_reference(policy),
                         .config = of,
                         .world = world};
    trainer.train(stream());
    return policy.parameters[0].second.detach().clone();
  };
  const Tensor alone = weights(one, {});
  for (const auto& thrown : kto::test::run_ranks(2, [&](const World& world) {
         const double gap = (weights(config, world) - alone).abs().max().item<double>();
         kto::check(gap < 1e-12, "other weights than alone: ", gap);
       }))
    if (thrown) std::rethrow_exception(thrown);
}

TEST_CASE("what rank 0's callbacks ask for, a signal and a loss that is not finite end all ranks alike") {
  const auto rows = toy::rows(48);
  const auto run = [&](const std::function<void(const World&, const kto::TrainerState&, kto::Control&)>& at_end) {
    std::vector<kto::TrainerState> states(2);
    for (const auto& thrown : kto::test::run_ranks(2, [&](const World& world) {
           const auto policy = model();
           kto::Trainer trainer{.model = policy,
                                .collator = kto::PaddedCollator{},
                                .loss = kto::Kto{},
                                .reference = kto::live_reference(policy),
                                .config = settings(),
                                .world = world};
           trainer.callbacks = {{.on_step_end = [&](const kto::TrainerState& state, kto::Control& control) {
             kto::check(world.is_first(), "a callback on rank ", world.rank);
             at_end(world, state, control);
           }}};
           states[static_cast<std::size_t>(world.rank)] = trainer.train(rows);
         }))
      if (thrown) std::rethrow_exception(thrown);
    CHECK(states[0].global_step == states[1].global_step);
    CHECK(states[0].interrupted == states[1].interrupted);
    return states[0];
  };
  CHECK(run([](const World&, const kto::TrainerState& state, kto::Control& control) {
          control.should_stop = state.global_step == 3;
        }).global_step == 3);
  const auto stopped = run([](const World&, const kto::TrainerState& state, kto::Control&) {
    if (state.global_step == 2) kto::ask_to_stop();
  });
  kto::ask_to_stop(false);
  CHECK(stopped.global_step == 2);
  CHECK(stopped.interrupted);
}

}  // namespace test_ranks
