// SPDX-License-Identifier: Apache-2.0
// Ranks share out a decoder's weights (zero_stage 3), and train as ranks that each have them whole. Each rank is a
// thread, in which Catch checks nothing: it throws.
#include "catch.hpp"
#include "examples/toy.hpp"
#include "kto/collate/encoder_decoder.hpp"
#include "kto/collate/packed.hpp"
#include "kto/logprob/log_probs.hpp"
#include "kto/loss/kto.hpp"
#include "kto/model/adapted_decoder.hpp"
#include "kto/optim/any.hpp"
#include "kto/reference/synced.hpp"
#include "tests/data/temporary_folder.hpp"
#include "tests/dist/thread_group.hpp"
#include "tests/model/model_cases.hpp"

namespace test_shared_weights {

using kto::Json;
using kto::Tensor;
using kto::World;

namespace {

/// Tiny configs of kinds of decoders: what a layer needs beside its own weights differs.
Json config_of(const std::string& model_type) {
  Json out = {{"model_type", model_type},
              {"vocab_size", toy::vocabulary},
              {"hidden_size", 64},
              {"intermediate_size", 96},
              {"num_hidden_layers", 4},
              {"num_attention_heads", 4},
              {"num_key_value_heads", 2},
              {"head_dim", 16},
              {"max_position_embeddings", 64},
              {"tie_word_embeddings", model_type != "mixtral"}};
  const auto with = [&](const Json& more) { out.update(more); };
  if (model_type == "mixtral")
    with({{"num_local_experts", 4}, {"num_experts_per_tok", 2}, {"output_router_logits", true}});
  if (model_type == "gemma4_text")  // layers use the keys of earlier ones
    with({{"num_kv_shared_layers", 2},
          {"layer_types", {"sliding_attention", "full_attention", "sliding_attention", "full_attention"}},
          {"sliding_window", 4},
          {"global_head_dim", 16},
          {"hidden_size_per_layer_input", 4},
          {"vocab_size_per_layer_input", toy::vocabulary}});
  if (model_type == "t5")  // an encoder, and the first layer's bias in all
    out = {{"model_type", "t5"}, {"vocab_size", toy::vocabulary},
           {"d_model", 32},      {"d_ff", 48},
           {"d_kv", 8},          {"num_layers", 2},
           {"num_heads", 4},     {"dropout_rate", 0},
           {"pad_token_id", 0},  {"decoder_start_token_id", 0},
           {"eos_token_id", 1}};
  return out;
}

kto::Decoder decoder(const std::string& model_type, at::ScalarType type = at::kDouble) {
  return kto::test::case_decoder(kto::parse_model_config(config_of(model_type), model_type), type);
}

struct Seen {
  std::vector<Tensor> weights;
  Json log, evaluation;
};

double distance(const Seen& a, const Seen& b) {
  double out = 0;
  for (std::size_t i = 0; i < a.weights.size(); ++i)
    out = std::max(out, (a.weights[i] - b.weights[i]).abs().max().item<double>());
  return out;
}

void check_same(const Seen& a, const Seen& b, double margin = 1e-11) {
  CHECK(distance(a, b) <= margin);
  REQUIRE(a.log.size() == b.log.size());
  for (std::size_t i = 0; i < a.log.size(); ++i)
    for (const auto& [key, value] : a.log[i].items()) {
      if (key.find("runtime") != std::string::npos || key.find("per_second") != std::string::npos) continue;
      INFO(i << ' ' << key << ' ' << value << ' ' << b.log[i].value(key, Json()));
      CHECK(std::abs(b.log[i].at(key).get<double>() - value.get<double>()) <=
            std::max(1e-6, 10 * margin) * (1 + std::abs(value.get<double>())));
    }
}

struct Setup {
  std::string model_type = "llama";
  kto::TrainConfig config = {};
  kto::AnyOptimizer optimizer = {kto::AdamW{.weight_decay = 0.1}};
  bool adapter = false, recompute = false;
  double ema = 0;  ///< of the reference; 0: it is fixed
  at::ScalarType type = at::kDouble;
  int num_rows = 13;
};

kto::TrainConfig settings(std::int64_t stage = 0) {
  return {.per_device_train_batch_size = 2,
          .per_device_eval_batch_size = 2,
          .gradient_accumulation_steps = 2,
          .train_sampling_strategy = kto::SamplingStrategy::random,
          .kl_scope = kto::KlScope::window,
          .num_train_epochs = 2,
          .learning_rate = 1e-3,
          .max_grad_norm = 0.5,
          .zero_stage = stage,
          .logging_steps = 1};
}

template <class Collator, class Reference>
Seen train(const Setup& setup, const World& world, const kto::Decoder& policy, const Collator& collator,
           const Reference& reference) {
  const auto rows = toy::rows(setup.num_rows), eval_rows = toy::rows(5);
  const kto::EvaluationHooks hooks{.samples = [&](std::span<const kto::Example> of) {  // rank 0 alone runs the model
    return Json(kto::log_probs(policy, of.first(2), collator).sum().template item<double>());
  }};
  kto::Trainer trainer{.model = policy,
                       .collator = collator,
                       .loss = kto::Kto{},
                       .reference = reference,
                       .config = setup.config,
                       .evaluation = hooks,
                       .optimizer = setup.optimizer,
                       .world = world};
  Seen out;
  out.log = trainer.train(rows, eval_rows).log_history;
  out.evaluation = trainer.evaluate(eval_rows);
  for (const auto& [name, tensor] : policy.named_parameters())
    out.weights.push_back(kto::present(tensor).detach().clone());
  return out;
}

template <class Reference>
Seen train(const Setup& setup, const World& world, const kto::Decoder& policy, const Reference& reference) {
  if (!policy.encoder.empty()) return train(setup, world, policy, kto::EncoderDecoderCollator{0}, reference);
  return train(setup, world, policy, kto::PackedCollator{}, reference);
}

Seen train(const Setup& setup, const World& world) {
  kto::Decoder policy = decoder(setup.model_type, setup.type);
  policy.recompute = setup.recompute;
  if (setup.adapter) {
    const kto::Decoder base = policy;
    policy = kto::detail::put_adapter_on(base, {.r = 2, .lora_alpha = 4, .lora_dropout = 0}, /*seed=*/1).policy;
    return train(setup, world, policy, kto::LiveReference<kto::Decoder>{.model = base, .starts_as_policy = true});
  }
  if (setup.ema > 0)
    return train(setup, world, policy,
                 kto::EmaReference<kto::Decoder>{.model = kto::frozen_copy(policy), .decay = setup.ema});
  return train(setup, world, policy, kto::live_reference(policy));
}

Seen train_on(int size, const Setup& setup) {
  if (size == 1) return train(setup, {});
  std::vector<Seen> seen(static_cast<std::size_t>(size));
  for (const auto& thrown : kto::test::run_ranks(
           size, [&](const World& world) { seen[static_cast<std::size_t>(world.rank)] = train(setup, world); }))
    if (thrown) std::rethrow_exception(thrown);
  for (const Seen& other : seen) CHECK(distance(seen[0], other) == 0);
  return seen[0];
}

/// Stage 3 gives what stage 0 gives.
void check_stage(int size, Setup setup, double margin = 1e-11) {
  INFO(setup.model_type << " on " << size << " ranks");
  setup.config.zero_stage = 0;
  const Seen none = train_on(size, setup);
  setup.config.zero_stage = 3;
  check_same(none, train_on(size, setup), margin);
}

/// Calls `before` before each loss.
struct Fragile {
  static constexpr kto::BatchParts needs{.kl_pairs = true};
  std::function<void()> before = [] {};
  kto::LossTerms<Tensor> operator()(const kto::LossInput<Tensor>& in) const {
    before();
    return kto::Kto{}(in);
  }
};

}  // namespace

TEST_CASE("zero_stage 3: ranks that share out the weights make the same updates, whatever a layer needs") {
  for (const char* model_type : {"llama", "mixtral", "gemma4_text", "t5"})
    for (const bool recompute : {false, true}) {
      Setup setup{.model_type = model_type, .config = settings(), .recompute = recompute};
      setup.config.eval_strategy = kto::IntervalStrategy::epoch;
      check_stage(recompute ? 2 : 4, setup);
    }
}

TEST_CASE("zero_stage 3 with adapters, references that move, and optimizers that need whole parameters") {
  check_stage(2, {.config = settings(), .adapter = true});
  check_stage(2, {.config = settings(), .ema = 0.5});
  check_stage(3, {.config = settings(), .optimizer = {kto::Adafactor{}}});
  check_stage(2, {.config = settings(), .optimizer = {kto::AdamW8Bit{}}, .type = at::kFloat}, 1e-4);
}

TEST_CASE("zero_stage 3: checkpoints are whole, and resume in any stage on any number of ranks, references included") {
  for (const kto::AnyOptimizer& optimizer : {kto::AnyOptimizer{kto::AdamW{}}, kto::AnyOptimizer{kto::Adafactor{}}}) {
    const kto_test::TemporaryFolder folder;
    const auto run = [&](const std::string& name, int size, std::int64_t stage, const std::string& from = "") {
      INFO(name);
      Setup setup{.config = settings(stage), .optimizer = optimizer, .ema = 0.7};
      setup.config.output_dir = (folder.path() / name).string();
      setup.config.gradient_accumulation_steps = 4 / size;
      setup.config.save_strategy = kto::SaveStrategy::steps;
      setup.config.save_steps = 2;
      if (!from.empty()) setup.config.resume_from_checkpoint = (folder.path() / from).string();
      return train_on(size, setup);
    };
    const Seen none = run("none", 2, 0), three = run("three", 2, 3);
    check_same(none, three);
    CHECK(distance(three, run("three more", 2, 3, "three/checkpoint-2")) == 0);
    check_same(none, run("none to three", 2, 3, "none/checkpoint-2"));
    check_same(none, run("three to none", 2, 0, "three/checkpoint-4"));
    check_same(none, run("three to two", 2, 2, "three/checkpoint-2"));
    check_same(none, run("three to four", 4, 3, "three/checkpoint-2"));
    check_same(none, run("alone", 1, 0, "three/checkpoint-4"));
  }
}

TEST_CASE("zero_stage 3: ranks keep their parts alone; a model that cannot fetch its layers is refused") {
  for (const auto& thrown : kto::test::run_ranks(2, [&](const World& world) {
         const kto::Decoder policy = decoder("llama");
         const auto rows = toy::rows(8);
         kto::Trainer trainer{.model = policy,
                              .collator = kto::PackedCollator{},
                              .loss = kto::Kto{},
                              .reference = kto::live_reference(policy),
                              .config = settings(3),
                              .world = world};
         trainer.train(rows);
         for (const kto::Decoder& each : {policy, trainer.reference.model})
           for (const auto& [name, tensor] : each.named_parameters()) {
             const kto::WeightUnit* unit = kto::unit_of(tensor);
             kto::check(unit != nullptr, name, " is whole");
             kto::check(unit->is_here || tensor.const_data_ptr() == nullptr || tensor.storage_offset() > 0, name,
                        " has memory");
             kto::check(unit->is_here == (unit->blocks[0].memory.get() != nullptr), name, " has memory");
           }
         kto::check(trainer.world.max(kto::unit_of(policy.layers[0].o_proj.weight_OI)->is_here ? 1 : 0) == 0,
                    "after an update no values are here");
       }))
    if (thrown) std::rethrow_exception(thrown);
  const auto thrown = kto::test::run_ranks(2, [&](const World& world) {
    const auto policy = toy::bigram_model();
    kto::Trainer{.model = policy,
                 .collator = kto::PaddedCollator{},
                 .loss = kto::Kto{},
                 .reference = kto::live_reference(policy),
                 .config = settings(3),
                 .world = world}
        .train(toy::rows(8));
  });
  for (const auto& each : thrown)
    CHECK_THROWS_WITH(std::rethrow_exception(each), KTO_CONTAINS("cannot fetch its weights layer by layer"));
}

TEST_CASE("zero_stage 3: a rank that fails between two layers ends all, and says why") {
  const auto thrown = kto::test::run_ranks(3, [&](const World& world) {
    const kto::Decoder policy = decoder("llama");
    int calls = 0;
    kto::Trainer trainer{.model = policy,
                         .collator = kto::PackedCollator{},
                         .loss = Fragile{[&] { kto::check(world.rank != 1 || ++calls != 3, "number 3 is bad"); }},
                         .reference = kto::live_reference(policy),
                         .config = settings(3),
                         .world = world};
    trainer.train(toy::rows(40));
  });
  for (std::size_t rank = 0; rank < 3; ++rank)
    CHECK_THROWS_WITH(std::rethrow_exception(thrown[rank]),
                      KTO_CONTAINS(rank == 1 ? "number 3 is bad" : "rank 1 failed"));
}

}  // namespace test_shared_weights
