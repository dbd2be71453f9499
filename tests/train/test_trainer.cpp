// SPDX-License-Identifier: Apache-2.0
// The trainer on a model of one matrix: windows, weights, hooks, and what it refuses.
#include "catch.hpp"
#include "examples/toy.hpp"
#include "kto/collate/paired.hpp"
#include "kto/loss/apo_zero.hpp"
#include "kto/loss/bco.hpp"
#include "kto/loss/dpo.hpp"
#include "kto/loss/kto.hpp"

namespace test_trainer {

using kto::Tensor;

namespace {

auto double_model() {
  auto model = toy::bigram_model();
  model.parameters[0].second = model.parameters[0].second.detach().to(at::kDouble).requires_grad_(true);
  return model;
}

/// Trains in float64 and returns the trained matrix.
template <class Loss = kto::Kto>
Tensor trained(const kto::TrainConfig& config, const std::vector<kto::Example>& rows, const Loss& loss = {}) {
  const auto model = double_model();
  kto::Trainer trainer{.model = model,
                       .collator = kto::PaddedCollator{},
                       .loss = loss,
                       .reference = kto::live_reference(model),
                       .config = config};
  trainer.train(rows);
  return model.parameters[0].second.detach().clone();
}

double distance(const Tensor& a, const Tensor& b) { return (a - b).abs().max().item<double>(); }

template <class Loss>
void expect_refusal(const Loss& loss, const std::string& message) {
  const auto model = toy::bigram_model();
  const Tensor before = model.parameters[0].second.detach().clone();
  kto::Trainer trainer{.model = model,
                       .collator = kto::PaddedCollator{},
                       .loss = loss,
                       .reference = kto::live_reference(model),
                       .config = {.max_steps = 3}};
  CHECK_THROWS_WITH(trainer.train(toy::rows(8)), KTO_CONTAINS(message));
  CHECK(at::equal(before, model.parameters[0].second));
}

struct WrongShape {
  static constexpr kto::BatchParts needs{};
  kto::LossTerms<Tensor> operator()(const kto::LossInput<Tensor>& in) const {
    return {in.policy_logp_B.sum(), in.policy_logp_B};
  }
};
struct NotFinite {
  static constexpr kto::BatchParts needs{};
  kto::LossTerms<Tensor> operator()(const kto::LossInput<Tensor>& in) const {
    return {in.policy_logp_B * NAN, in.policy_logp_B};
  }
};
struct NoGradient {
  static constexpr kto::BatchParts needs{};
  kto::LossTerms<Tensor> operator()(const kto::LossInput<Tensor>& in) const {
    return {in.policy_logp_B.detach(), in.policy_logp_B};
  }
};

}  // namespace

TEST_CASE("kl_scope window: k micro-batches of b rows are one of k * b") {
  const kto::TrainConfig one{
      .per_device_train_batch_size = 8, .kl_scope = kto::KlScope::window, .max_steps = 6, .learning_rate = 0.03};
  for (const std::int64_t micro : {1, 2, 4}) {
    kto::TrainConfig many = one;
    many.per_device_train_batch_size = micro;
    many.gradient_accumulation_steps = 8 / micro;
    CHECK(distance(trained(one, toy::rows(20)), trained(many, toy::rows(20))) < 1e-12);
  }
}

TEST_CASE("class weights are the trainer's: a weight of 2 doubles the gradient of its rows alone") {
  const kto::TrainConfig plain{
      .per_device_train_batch_size = 4, .max_steps = 1, .learning_rate = 1, .max_grad_norm = 0};
  struct Sgd {
    void step(kto::FlatParameters& parameters, const kto::Update& update) const {
      for (auto& group : parameters.groups)
        for (auto& slice : group.slices) slice.view(group.values).sub_(update.learning_rate * slice.parameter.grad());
    }
  };
  const auto step = [&](double desirable, double undesirable) {
    const auto model = double_model();
    const Tensor before = model.parameters[0].second.detach().clone();
    kto::TrainConfig config = plain;
    config.desirable_weight = desirable, config.undesirable_weight = undesirable;
    kto::Trainer trainer{.model = model,
                         .collator = kto::PaddedCollator{},
                         .loss = kto::ApoZeroUnpaired{},
                         .reference = kto::live_reference(model),
                         .config = config,
                         .optimizer = Sgd{}};
    trainer.train(toy::rows(4));
    return Tensor(model.parameters[0].second.detach() - before);
  };
  CHECK(distance(step(2, 3), 2 * step(1, 0) + 3 * step(0, 1)) < 1e-14);
}

TEST_CASE("all chosen, all rejected, odd batches and a last batch of one train without NaN") {
  auto rows = toy::rows(9);
  for (const int kind : {0, 1, 2}) {
    if (kind < 2)
      for (auto& row : rows) row.label = kind == 0;
    else
      rows = toy::rows(9);
    const Tensor table = trained({.per_device_train_batch_size = 4, .max_steps = 6, .learning_rate = 0.05}, rows);
    CHECK(at::isfinite(table).all().item<bool>());
  }
}

TEST_CASE("a run is repeated to the last bit, and depends on the seed where rows are shuffled") {
  kto::TrainConfig config{.per_device_train_batch_size = 4,
                          .train_sampling_strategy = kto::SamplingStrategy::random,
                          .max_steps = 8,
                          .learning_rate = 0.05};
  const Tensor first = trained(config, toy::rows(24));
  CHECK(at::equal(first, trained(config, toy::rows(24))));
  config.seed = 7;
  CHECK_FALSE(at::equal(first, trained(config, toy::rows(24))));
}

TEST_CASE("a bad loss is an error before any weight is changed") {
  expect_refusal(WrongShape{}, "loss_B of shape [], expected [8]");
  expect_refusal(NotFinite{}, "not finite");
  expect_refusal(NoGradient{}, "without gradient");
}

TEST_CASE("a bad module is an error that names shape or dtype") {
  const auto refuse = [](auto function, const std::string& message) {
    const kto::FunctionModel model{kto::NamedTensors{{"w", at::zeros({12, 12}).requires_grad_(true)}}, function};
    kto::Trainer trainer{.model = model,
                         .collator = kto::PaddedCollator{},
                         .loss = kto::Kto{},
                         .reference = kto::live_reference(model),
                         .config = {.max_steps = 1}};
    CHECK_THROWS_WITH(trainer.train(toy::rows(8)), KTO_CONTAINS(message));
  };
  using P = kto::NamedTensors;
  refuse([](const P& p, const Tensor& ids, const Tensor&) { return at::embedding(p[0].second, ids).narrow(-1, 0, 5); },
         "the model's vocabulary has 5 tokens");
  refuse([](const P& p, const Tensor& ids, const Tensor&) { return at::embedding(p[0].second, ids).sum(1); },
         "expected floating-point logits [8, 5, vocabulary]");
  refuse([](const P& p, const Tensor& ids, const Tensor&) { return at::embedding(p[0].second, ids).to(at::kLong); },
         "long");
}

TEST_CASE("what cannot be trained is refused: no rows, no parameters, weights with a loss of pairs, odd pairs") {
  const auto model = toy::bigram_model();
  kto::Trainer trainer{.model = model,
                       .collator = kto::PaddedCollator{},
                       .loss = kto::Kto{},
                       .reference = kto::live_reference(model),
                       .config = {.max_steps = 1}};
  CHECK_THROWS_WITH(trainer.train({}), KTO_CONTAINS("no batch to train on"));
  trainer.config.per_device_train_batch_size = 0;
  CHECK_THROWS_WITH(trainer.train(toy::rows(8)), KTO_CONTAINS("per_device_train_batch_size"));
  auto frozen = model;
  frozen.parameters[0].second = frozen.parameters[0].second.detach();
  kto::Trainer without{.model = frozen,
                       .collator = kto::PaddedCollator{},
                       .loss = kto::Kto{},
                       .reference = kto::live_reference(model),
                       .config = {.max_steps = 1}};
  CHECK_THROWS_WITH(without.train(toy::rows(8)), KTO_CONTAINS("nothing to train"));
  kto::Trainer pairs{.model = model,
                     .collator = kto::PairedCollator<kto::PaddedCollator>{},
                     .loss = kto::Dpo{},
                     .reference = kto::live_reference(model),
                     .config = {.desirable_weight = 2, .max_steps = 1}};
  CHECK_THROWS_WITH(pairs.train(toy::rows(8)), KTO_CONTAINS("leave both at 1"));
  pairs.config.desirable_weight = 1;
  CHECK_THROWS_WITH(pairs.train(toy::rows(7)), KTO_CONTAINS("odd number"));
  CHECK_THROWS_WITH(pairs.train(toy::rows(8)), KTO_CONTAINS("are no pair"));
}

TEST_CASE("callbacks see the run in order and may stop it") {
  const auto model = toy::bigram_model();
  std::string seen;
  kto::Callback callback;
  callback.on_train_begin = [&](const kto::TrainerState&, const kto::Plan& plan) {
    seen += "begin" + std::to_string(plan.num_steps) + ' ';
  };
  callback.on_step_begin = [&](const kto::TrainerState& state, kto::Control&) {
    seen += "<" + std::to_string(state.global_step);
  };
  callback.on_step_end = [&](const kto::TrainerState& state, kto::Control& control) {
    seen += ">" + std::to_string(state.global_step) + ' ';
    control.should_stop = state.global_step == 3;
  };
  callback.on_log = [&](const kto::TrainerState&, const kto::Json& entry, kto::Control&) {
    seen += entry.contains("loss") ? "log " : entry.contains("eval_loss") ? "eval-log " : "end-log ";
  };
  callback.on_evaluate = [&](const kto::TrainerState&, const kto::Json&, kto::Control&) { seen += "evaluated "; };
  callback.on_train_end = [&](const kto::TrainerState&) { seen += "end"; };
  kto::Trainer trainer{.model = model,
                       .collator = kto::PaddedCollator{},
                       .loss = kto::Kto{},
                       .reference = kto::live_reference(model),
                       .config = {.per_device_train_batch_size = 4,
                                  .max_steps = 9,
                                  .logging_steps = 2,
                                  .eval_strategy = kto::IntervalStrategy::steps,
                                  .eval_steps = 3},
                       .callbacks = {callback}};
  const auto state = trainer.train(toy::rows(16), toy::rows(8));
  CHECK(seen == "begin9 <0>1 <1>2 log <2>3 eval-log evaluated end-log end");
  CHECK(state.global_step == 3);
  CHECK(state.epoch == 0.75);
  CHECK(trainer.train(toy::rows(16), toy::rows(8)).global_step == 3);  // a second run starts from the trained weights
}

TEST_CASE("compute_metrics and preprocess_logits_for_metrics see every row of an evaluation") {
  const auto model = toy::bigram_model();
  const auto rows = toy::rows(10);
  kto::Trainer trainer{.model = model,
                       .collator = kto::PaddedCollator{},
                       .loss = kto::Kto{},
                       .reference = kto::live_reference(model),
                       .config = {.per_device_eval_batch_size = 4}};
  trainer.evaluation.preprocess_logits_for_metrics = [](const Tensor& logits_CV, const Tensor&) {
    return logits_CV.argmax(-1);
  };
  trainer.evaluation.compute_metrics = [&](const kto::EvalPrediction& seen) {
    CHECK(seen.policy_logp_B.numel() == 10);
    CHECK(seen.label_B.sum().item<int>() == 6);
    CHECK(seen.predictions.numel() == 30);  // three completion tokens a row
    CHECK(seen.row_C.max().item<int>() == 9);
    kto::Json own = kto::Json::object();
    own["accuracy"] = (seen.predictions == seen.target_C).to(at::kDouble).mean().item<double>();
    return own;
  };
  const auto metrics = trainer.evaluate(rows);
  CHECK(metrics["eval_accuracy"].get<double>() >= 0);
  trainer.evaluation.compute_metrics = [](const kto::EvalPrediction&) { return kto::Json(3); };
  CHECK_THROWS_WITH(trainer.evaluate(rows), KTO_CONTAINS("expected an object"));
  CHECK(metrics["eval_loss"].get<double>() == Approx(0.5));
}

TEST_CASE("a loss with state observes training, not evaluation; your own schedule is followed") {
  const auto model = toy::bigram_model();
  kto::Trainer trainer{.model = model,
                       .collator = kto::PaddedCollator{},
                       .loss = kto::BcoUnpaired{},
                       .reference = kto::live_reference(model),
                       .config = {.per_device_train_batch_size = 4, .max_steps = 3, .logging_steps = 1},
                       .learning_rate = [](std::int64_t step) { return 0.5 / static_cast<double>(step + 1); }};
  trainer.evaluate(toy::rows(8));
  CHECK(trainer.loss.num_rows == 0);
  const auto state = trainer.train(toy::rows(12));
  CHECK(trainer.loss.num_rows == 12);
  CHECK(state.log_history[1]["learning_rate"].get<double>() == 0.25);
}

}  // namespace test_trainer
