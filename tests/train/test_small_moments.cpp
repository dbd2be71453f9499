// SPDX-License-Identifier: Apache-2.0
// Training with AdamW's moments in 8 bits and in bfloat16 converges as with whole ones.
#include "catch.hpp"
#include "examples/toy.hpp"
#include "kto/collate/packed.hpp"
#include "kto/loss/kto.hpp"
#include "kto/optim/any.hpp"
#include "tests/model/model_cases.hpp"

namespace test_small_moments {
namespace {

/// Loss and margin on held-out rows after training a decoder most of whose weights have moments in 8 bits.
std::pair<double, double> after_training(const kto::AnyOptimizer& optimizer, int steps) {
  const kto::Json config = {{"model_type", "llama"},    {"vocab_size", toy::vocabulary}, {"hidden_size", 64},
                            {"intermediate_size", 128}, {"num_hidden_layers", 2},        {"num_attention_heads", 4},
                            {"num_key_value_heads", 4}, {"tie_word_embeddings", true}};
  const kto::Decoder model = kto::test::case_decoder(kto::parse_model_config(config, "config.json"), at::kFloat);
  kto::Trainer trainer{
      .model = model,
      .collator = kto::PackedCollator{},
      .loss = kto::Kto{},
      .reference = kto::live_reference(model),
      .config = {.per_device_train_batch_size = 8, .max_steps = std::max(steps, 1), .learning_rate = 1e-3},
      .optimizer = optimizer};
  if (steps > 0) trainer.train(toy::rows(96));
  const kto::Json metrics = trainer.evaluate(toy::rows(24));
  return {metrics["eval_loss"], metrics["eval_rewards/margins"]};
}

}  // namespace

TEST_CASE("moments in 8 bits and in bfloat16 reach the loss and margin of full AdamW") {
  constexpr int steps = 60;
  const auto start = after_training({}, 0), full = after_training({kto::AdamW{}}, steps);
  REQUIRE(full.first < 0.8 * start.first);
  for (const kto::AnyOptimizer& optimizer :
       {kto::AnyOptimizer{kto::AdamW8Bit{}}, kto::AnyOptimizer{kto::AdamWBf16{}}}) {
    const auto [loss, margin] = after_training(optimizer, steps);
    INFO(loss << " beside " << full.first << ", margin " << margin << " beside " << full.second);
    CHECK(std::abs(loss - full.first) < 0.05 * (start.first - full.first));
    CHECK(std::abs(margin - full.second) < 0.1 * full.second);
  }
}

}  // namespace test_small_moments
