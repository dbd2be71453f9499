// SPDX-License-Identifier: Apache-2.0
// max_tokens_per_batch: the rows of each micro-batch, the number of updates, and resuming.
#include <set>

#include "catch.hpp"
#include "examples/toy.hpp"
#include "kto/collate/packed.hpp"
#include "kto/collate/paired.hpp"
#include "kto/loss/dpo.hpp"
#include "kto/loss/kto.hpp"
#include "tests/data/temporary_folder.hpp"
#include "tests/model/model_cases.hpp"

namespace test_token_batches {

using kto::Tensor;

namespace {

/// Rows of 3 to 20 tokens, and one of 60.
std::vector<kto::Example> rows(int count) {
  std::vector<kto::Example> out;
  for (std::int32_t i = 0; i < count; ++i) {
    const auto length = static_cast<std::size_t>(i == 5 ? 58 : 1 + i * 7 % 18);
    out.push_back({.prompt_ids = {i % 5, i % 7},
                   .completion_ids = std::vector<std::int32_t>(length, i % toy::vocabulary),
                   .label = i % 2 == 0,
                   .row = static_cast<std::size_t>(i)});
  }
  return out;
}

kto::PickRules rules(bool paired = false) {
  return {.paired = paired,
          .num_tokens = [](const kto::Example& row) { return kto::PackedCollator{.max_length = 40}.num_tokens(row); }};
}

kto::Decoder decoder() {
  const kto::Json config = {{"model_type", "llama"},      {"vocab_size", toy::vocabulary},
                            {"hidden_size", 8},           {"intermediate_size", 12},
                            {"num_hidden_layers", 1},     {"num_attention_heads", 2},
                            {"num_key_value_heads", 1},   {"head_dim", 4},
                            {"tie_word_embeddings", true}};
  return kto::test::case_decoder(kto::parse_model_config(config, "config.json"), at::kFloat);
}

struct Seen {
  kto::Plan plan;
  kto::TrainerState state;
  Tensor weights;
};

template <class Collator = kto::PackedCollator, class Loss = kto::Kto>
Seen run(const kto::TrainConfig& config, const Collator& collator = {.max_length = 40}, const Loss& loss = {},
         std::vector<kto::Example> examples = rows(30)) {
  const kto::Decoder model = decoder();
  Seen seen;
  kto::Callback keep;
  keep.on_train_begin = [&](const kto::TrainerState&, const kto::Plan& plan) { seen.plan = plan; };
  kto::Trainer trainer{.model = model,
                       .collator = collator,
                       .loss = loss,
                       .reference = kto::live_reference(model),
                       .config = config,
                       .callbacks = {keep}};
  seen.state = trainer.train(examples);
  seen.weights = model.embed_tokens.weight_VD.detach().clone();
  return seen;
}

}  // namespace

TEST_CASE("max_tokens_per_batch: every row once, no micro-batch could take its next row, none has too many tokens") {
  const auto examples = rows(50);
  const auto count = rules().num_tokens;
  for (const auto sampling :
       {kto::SamplingStrategy::sequential, kto::SamplingStrategy::random, kto::SamplingStrategy::group_by_length})
    for (const std::int64_t most_rows : {3, 1000})
      for (const auto scope : {kto::KlScope::micro_batch, kto::KlScope::window}) {
        const kto::TrainConfig config{.per_device_train_batch_size = most_rows,
                                      .max_tokens_per_batch = 48,
                                      .gradient_accumulation_steps = 2,
                                      .train_sampling_strategy = sampling,
                                      .kl_scope = scope};
        const auto picks = kto::train_picks(examples, config, 1, rules());
        std::set<const kto::Example*> seen;
        for (std::size_t b = 0; b < picks.size(); ++b) {
          std::int64_t tokens = 0;
          std::set<const kto::Example*> own, lent;
          const std::size_t first = scope == kto::KlScope::window ? b / 2 * 2 : b;
          for (std::size_t w = first; w < std::min(picks.size(), scope == kto::KlScope::window ? first + 2 : b + 1);
               ++w)
            for (const kto::Pick& pick : picks[w]) own.insert(pick.example), lent.insert(pick.kl_partner);
          CHECK(own == lent);  // KL pairs are made within the micro-batch, or the window
          for (const kto::Pick& pick : picks[b]) tokens += count(*pick.example), seen.insert(pick.example);
          CHECK(picks[b].size() <= static_cast<std::size_t>(most_rows));
          CHECK((tokens <= 48 || picks[b].size() == 1));
          if (b + 1 < picks.size() && picks[b].size() < static_cast<std::size_t>(most_rows))
            CHECK(tokens + count(*picks[b + 1][0].example) > 48);
        }
        CHECK(seen.size() == examples.size());
      }
}

TEST_CASE("max_tokens_per_batch keeps pairs together") {
  const auto examples = rows(40);
  const kto::TrainConfig config{.per_device_train_batch_size = 1000,
                                .max_tokens_per_batch = 48,
                                .train_sampling_strategy = kto::SamplingStrategy::random};
  for (const auto& picks : kto::train_picks(examples, config, 0, rules(true)))
    for (std::size_t i = 0; i < picks.size() / 2; ++i)
      CHECK(picks[i].example + 1 == picks[picks.size() / 2 + i].example);
}

TEST_CASE("updates are known before training, though epochs differ in their number of micro-batches") {
  kto::TrainConfig config{.per_device_train_batch_size = 1000,
                          .max_tokens_per_batch = 40,
                          .gradient_accumulation_steps = 2,
                          .train_sampling_strategy = kto::SamplingStrategy::random,
                          .num_train_epochs = 4.5,
                          .logging_strategy = kto::IntervalStrategy::epoch};
  std::vector<std::int64_t> updates;
  for (std::int64_t epoch = 0; epoch < 5; ++epoch)
    updates.push_back((static_cast<std::int64_t>(kto::train_picks(rows(30), config, epoch, rules()).size()) + 1) / 2);
  CHECK(std::set(updates.begin(), updates.end()).size() > 1);  // or nothing is tested
  const Seen seen = run(config);
  CHECK(seen.plan.num_steps == updates[0] + updates[1] + updates[2] + updates[3] + (updates[4] + 1) / 2);
  CHECK(seen.state.global_step == seen.plan.num_steps);
  CHECK(seen.state.epoch > 4.3);
  CHECK(seen.state.epoch < 4.8);
  config.max_steps = updates[0] + updates[1] + 1;
  const Seen shorter = run(config);
  CHECK(shorter.state.global_step == config.max_steps);
  CHECK(shorter.plan.num_epochs == 3);
}

TEST_CASE("a run by tokens resumes to the last bit, with any number of workers") {
  const kto_test::TemporaryFolder folder;
  for (const auto sampling : {kto::SamplingStrategy::random, kto::SamplingStrategy::group_by_length}) {
    kto::TrainConfig config{.output_dir = (folder.path() / "out").string(),
                            .overwrite_output_dir = true,
                            .per_device_train_batch_size = 1000,
                            .max_tokens_per_batch = 40,
                            .gradient_accumulation_steps = 2,
                            .train_sampling_strategy = sampling,
                            .num_train_epochs = 2,
                            .learning_rate = 0.01,
                            .save_strategy = kto::SaveStrategy::steps,
                            .save_steps = 4};
    const Seen whole = run(config);
    config.resume_from_checkpoint = (folder.path() / "out" / "checkpoint-4").string();
    config.dataloader_num_workers = 3;
    CHECK(at::equal(whole.weights, run(config).weights));
    config.max_tokens_per_batch = 41;
    CHECK_THROWS_WITH(run(config), KTO_CONTAINS("max_tokens_per_batch is"));
  }
}

TEST_CASE("a budget that all rows fit in is the one batch of them") {
  const kto::TrainConfig by_rows{.per_device_train_batch_size = 30, .num_train_epochs = 3, .learning_rate = 0.01};
  kto::TrainConfig by_tokens = by_rows;
  by_tokens.max_tokens_per_batch = 100000;
  by_tokens.per_device_train_batch_size = 100000;
  CHECK(at::equal(run(by_rows).weights, run(by_tokens).weights));
}

TEST_CASE("paired losses train by tokens") {
  auto examples = rows(20);
  for (std::size_t i = 0; i < examples.size(); i += 2) {
    examples[i + 1].prompt_ids = examples[i].prompt_ids;
    examples[i + 1].row = examples[i].row;
  }
  const Seen seen = run({.per_device_train_batch_size = 1000, .max_tokens_per_batch = 60, .num_train_epochs = 2},
                        kto::PairedCollator<>{{.max_length = 40}}, kto::Dpo{}, examples);
  CHECK(seen.state.global_step == seen.plan.num_steps);
  CHECK(seen.plan.steps_per_epoch > 2);
}

TEST_CASE("max_tokens_per_batch is refused where it cannot work") {
  const auto refusal = [](const auto& rows_or_stream, kto::TrainConfig config) {
    const auto model = toy::bigram_model();
    config.max_tokens_per_batch = 40;
    kto::Trainer trainer{.model = model,
                         .collator = kto::PaddedCollator{},
                         .loss = kto::Kto{},
                         .reference = kto::live_reference(model),
                         .config = config};
    try {
      trainer.train(rows_or_stream);
    } catch (const kto::UsageError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const auto examples = rows(8);
  CHECK_THAT(refusal(examples, {.max_steps = 1}), KTO_CONTAINS("use kto::PackedCollator"));
  CHECK_THAT(refusal(examples, {.dataloader_drop_last = true}), KTO_CONTAINS("omit dataloader_drop_last"));
  const kto::RowStream stream([&] { return [&] { return examples; }; });
  CHECK_THAT(refusal(stream, {.max_steps = 1}), KTO_CONTAINS("max_tokens_per_batch: a stream"));
}

}  // namespace test_token_batches
