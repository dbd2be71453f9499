// SPDX-License-Identifier: Apache-2.0
// optim_in_backward against the ordinary path, its oracle: the same weights, log and checkpoints, and no gradient left.
#include "catch.hpp"
#include "examples/toy.hpp"
#include "kto/collate/packed.hpp"
#include "kto/loss/kto.hpp"
#include "kto/model/adapter.hpp"
#include "kto/optim/any.hpp"
#include "tests/data/temporary_folder.hpp"
#include "tests/model/model_cases.hpp"

namespace test_optim_in_backward {

using kto::Tensor;

namespace {

kto::Decoder decoder(bool tied, at::ScalarType compute = at::kFloat) {
  const kto::Json config = {
      {"model_type", "llama"},  {"vocab_size", toy::vocabulary}, {"hidden_size", 24},        {"intermediate_size", 40},
      {"num_hidden_layers", 3}, {"num_attention_heads", 4},      {"num_key_value_heads", 2}, {"head_dim", 6},
      {"attention_bias", true}, {"tie_word_embeddings", tied}};
  kto::Decoder out = kto::test::case_decoder(kto::parse_model_config(config, "config.json"), at::kFloat);
  out.compute = compute;
  return out;
}

struct Run {
  kto::NamedTensors weights;
  std::vector<double> losses, norms;
};

template <class Model>
Run run(const Model& model, const Model& base, const kto::TrainConfig& config, kto::AnyOptimizer optimizer = {}) {
  kto::Trainer trainer{.model = model,
                       .collator = kto::PackedCollator{},
                       .loss = kto::Kto{},
                       .reference = kto::live_reference(base),
                       .config = config,
                       .optimizer = std::move(optimizer)};
  const kto::TrainerState state = trainer.train(toy::rows(12));
  Run out;
  for (const auto& [name, tensor] : model.named_parameters()) {
    out.weights.emplace_back(name, tensor.detach().clone());
    if (config.optim_in_backward) CHECK_FALSE(tensor.grad().defined());
  }
  for (const auto& entry : state.log_history)
    if (entry.contains("loss")) out.losses.push_back(entry["loss"]), out.norms.push_back(entry["grad_norm"]);
  return out;
}

/// Weights to the last bits of the vector units' other order of the same sums; losses that follow from them.
void check_same(const Run& a, const Run& b) {
  REQUIRE(a.weights.size() == b.weights.size());
  for (std::size_t i = 0; i < a.weights.size(); ++i) {
    INFO(a.weights[i].first);
    CHECK(kto::test::largest(a.weights[i].second - b.weights[i].second) < 1e-6);
  }
  REQUIRE(a.losses.size() == b.losses.size());
  for (std::size_t i = 0; i < a.losses.size(); ++i) {
    CHECK(a.losses[i] == Approx(b.losses[i]).epsilon(1e-5));
    CHECK(a.norms[i] == Approx(b.norms[i]).epsilon(1e-4));
  }
}

kto::TrainConfig settings() {
  return {.per_device_train_batch_size = 4,
          .max_steps = 7,
          .learning_rate = 3e-3,
          .lr_scheduler_type = kto::LrSchedulerType::cosine,
          .weight_decay = 0.1,
          .max_grad_norm = 0,
          .logging_steps = 1};
}

template <class Make>
void compare(const Make& make, kto::TrainConfig config, const kto::AnyOptimizer& optimizer = {}) {
  Run runs[2];
  for (const bool in_backward : {false, true}) {
    config.optim_in_backward = in_backward;
    const auto [model, base] = make();
    runs[in_backward ? 1 : 0] = run(model, base, config, optimizer);
  }
  check_same(runs[0], runs[1]);
  const auto [model, base] = make();
  double moved = 0;
  for (std::size_t i = 0; i < runs[0].weights.size(); ++i)
    moved = std::max(moved, kto::test::largest(runs[0].weights[i].second - model.named_parameters()[i].second));
  CHECK(moved > 1e-3);  // or nothing was compared
}

}  // namespace

TEST_CASE("optim_in_backward trains as the ordinary path: tied or not, recomputed, in bfloat16") {
  for (const bool tied : {true, false})
    for (const bool recompute : {false, true})
      for (const auto compute : {at::kFloat, at::kBFloat16}) {
        INFO(tied << recompute << compute);
        compare(
            [&] {
              kto::Decoder model = decoder(tied, compute);
              model.recompute = recompute;
              return std::pair{model, model};
            },
            settings());
      }
}

TEST_CASE("optim_in_backward with LoRA and DoRA, and everything trained along with them") {
  const kto::LoraConfig configs[] = {
      {.target_modules = {"q_proj", "down_proj", "lm_head"}},
      {.target_modules = {"q_proj", "down_proj", "lm_head"}, .modules_to_save = {"norm"}},
      {.target_modules = {"q_proj", "down_proj", "lm_head"}, .use_dora = true},
      {.target_modules = {"q_proj", "lm_head"}, .modules_to_save = {"norm"}, .use_dora = true},
      {.target_modules = {"q_proj", "embed_tokens"}, .bias = kto::LoraBias::all, .use_dora = true},
      {.target_modules = {"q_proj"}, .bias = kto::LoraBias::lora_only, .lora_bias = true},
      {.target_modules = {"q_proj", "lm_head"}, .ensure_weight_tying = true},
      {.target_modules = {"q_proj"}, .modules_to_save = {"lm_head"}, .ensure_weight_tying = true},
      {.target_modules = {"q_proj"}, .trainable_token_indices = {{"embed_tokens", {1, 2, 3}}}},
      {.target_modules = {"q_proj"}, .trainable_token_indices = {{"embed_tokens", {1, 2}}, {"lm_head", {3}}}}};
  for (kto::LoraConfig config : configs) {
    config.r = 3;
    compare(
        [&] {
          const kto::Decoder base = decoder(/*tied=*/true);
          for (auto& [name, tensor] : base.named_parameters()) tensor.set_requires_grad(false);
          at::manual_seed(3);
          return std::pair{kto::with_adapter(base, config).policy, base};
        },
        settings());
  }
}

TEST_CASE("optim_in_backward clips the norm of all gradients, which a first pass finds") {
  kto::TrainConfig config = settings();
  config.max_grad_norm = 0.05;
  for (const bool recompute : {false, true})
    compare(
        [=] {
          kto::Decoder model = decoder(true);
          model.recompute = recompute;
          return std::pair(model, kto::frozen_copy(model));
        },
        config);
}

TEST_CASE("optim_in_backward with every optimizer") {
  for (const kto::AnyOptimizer& optimizer :
       {kto::AnyOptimizer{kto::Sgd{.momentum = 0.9, .weight_decay = 0.1}}, kto::AnyOptimizer{kto::RmsProp{}},
        kto::AnyOptimizer{kto::AdamW8Bit{.weight_decay = 0.1}}, kto::AnyOptimizer{kto::AdamWBf16{}},
        kto::AnyOptimizer{kto::Adagrad{}}, kto::AnyOptimizer{kto::Adafactor{.weight_decay = 0.1}}})
    compare([] { return std::pair{decoder(true), decoder(true)}; }, settings(), optimizer);
}

TEST_CASE("a parameter that is not part of the loss stays unchanged, as in torch: no decay, no moments") {
  const auto unused = [] { return at::ones({5}).requires_grad_(true); };
  for (const bool in_backward : {false, true}) {
    const auto table = toy::bigram_model();
    const Tensor extra = unused();
    const kto::FunctionModel model{kto::NamedTensors{table.parameters[0], {"extra", extra}},
                                   [](const kto::NamedTensors& parameters, const Tensor& ids_BT, const Tensor&) {
                                     return at::embedding(parameters[0].second, ids_BT);
                                   }};
    kto::TrainConfig config = settings();
    config.optim_in_backward = in_backward;
    kto::Trainer trainer{.model = model,
                         .collator = kto::PaddedCollator{},
                         .loss = kto::Kto{},
                         .reference = kto::live_reference(model),
                         .config = config};
    trainer.train(toy::rows(12));
    CHECK(at::equal(extra, at::ones({5})));
    CHECK_FALSE(extra.grad().defined());
  }
}

TEST_CASE("a run with optim_in_backward resumes to the last bit") {
  const kto_test::TemporaryFolder folder;
  kto::TrainConfig config = settings();
  config.optim_in_backward = true;
  config.output_dir = (folder.path() / "out").string();
  config.save_strategy = kto::SaveStrategy::steps;
  config.save_steps = 3;
  const Run whole = run(decoder(true), decoder(true), config);
  config.resume_from_checkpoint = (folder.path() / "out" / "checkpoint-3").string();
  const Run resumed = run(decoder(true), decoder(true), config);
  for (std::size_t i = 0; i < whole.weights.size(); ++i)
    CHECK(at::equal(whole.weights[i].second, resumed.weights[i].second));
  config.optim_in_backward = false;
  CHECK_THROWS_WITH(run(decoder(true), decoder(true), config), KTO_CONTAINS("optim_in_backward"));
}

namespace {

/// Not finite from the step on that `from` counts down to; the log-probs' gradient where `gradient`, else the loss.
struct Broken {
  static constexpr kto::BatchParts needs{};
  int* from = nullptr;
  bool gradient = false;
  kto::LossTerms<Tensor> operator()(const kto::LossInput<Tensor>& in) const {
    const bool broken = at::GradMode::is_enabled() && (*from)-- <= 0;
    if (!broken) return {-in.policy_logp_B, in.policy_logp_B};
    if (gradient) return {(in.policy_logp_B * 0).sqrt(), in.policy_logp_B};  // 0, whose slope is not finite
    return {in.policy_logp_B * NAN, in.policy_logp_B};
  }
};

std::string message(bool gradient, kto::NonFiniteLoss how, int from, Tensor& change, double max_grad_norm = 0) {
  kto::TrainConfig config = settings();
  config.max_grad_norm = max_grad_norm;
  config.optim_in_backward = true;
  config.nonfinite_loss = how;
  config.max_steps = from + 1;
  const kto::Decoder model = decoder(true), start = decoder(true);
  kto::Trainer trainer{.model = model,
                       .collator = kto::PackedCollator{},
                       .loss = Broken{&from, gradient},
                       .reference = kto::live_reference(start),
                       .config = config};
  std::string out;
  try {
    trainer.train(toy::rows(12));
  } catch (const kto::Error& error) {
    out = error.what();
  }
  change = model.embed_tokens.weight_VD.detach() - start.embed_tokens.weight_VD;
  return out;
}

}  // namespace

TEST_CASE("optim_in_backward finds a loss that is not finite before any weight changes, and a gradient when it comes") {
  Tensor change;
  CHECK_THAT(message(false, kto::NonFiniteLoss::stop, 0, change), KTO_CONTAINS("this step changed no weight"));
  CHECK(kto::test::largest(change) == 0);
  CHECK(message(false, kto::NonFiniteLoss::skip, 0, change) == "");
  CHECK(kto::test::largest(change) == 0);
  for (const auto how : {kto::NonFiniteLoss::stop, kto::NonFiniteLoss::skip})
    CHECK_THAT(message(true, how, 0, change), KTO_CONTAINS("is not finite") && KTO_CONTAINS("set max_grad_norm"));
  CHECK(kto::test::largest(change) == 0);
  for (const bool gradient : {false, true}) {  // found in the first pass
    CHECK(message(gradient, kto::NonFiniteLoss::skip, 0, change, 1) == "");
    CHECK(kto::test::largest(change) == 0);
  }
  CHECK(message(false, kto::NonFiniteLoss::skip, 1, change) == "");
  CHECK(kto::test::largest(change) > 0);
}

TEST_CASE("optim_in_backward is refused where gradients must be held, saying what to set") {
  kto::TrainConfig config = settings();
  config.optim_in_backward = true;
  config.gradient_accumulation_steps = 2;
  CHECK_THROWS_WITH(kto::validate(config), KTO_CONTAINS("set gradient_accumulation_steps to 1"));
}

}  // namespace test_optim_in_backward
