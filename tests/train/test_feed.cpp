// SPDX-License-Identifier: Apache-2.0
// Training on a stream of rows: the run over the same rows in memory, without ever holding them all.
#include "catch.hpp"
#include "examples/toy.hpp"
#include "kto/loss/kto.hpp"
#include "tests/data/temporary_folder.hpp"

using kto::Tensor;

namespace {

/// `rows` in blocks of 5, as often as a pass begins; `num_passes` counts those.
kto::RowStream stream_of(std::vector<kto::Example> rows, int& num_passes) {
  return kto::RowStream{[rows = std::move(rows), &num_passes] {
    ++num_passes;
    return [&rows, at = std::size_t{0}]() mutable {
      const std::size_t begin = std::exchange(at, std::min(at + 5, rows.size()));
      return std::vector<kto::Example>(rows.begin() + static_cast<std::ptrdiff_t>(begin),
                                       rows.begin() + static_cast<std::ptrdiff_t>(at));
    };
  }};
}

template <class Rows>
std::pair<Tensor, kto::TrainerState> trained(const Rows& rows, const kto::TrainConfig& config) {
  const auto model = toy::bigram_model();
  kto::Trainer trainer{.model = model,
                       .collator = kto::PaddedCollator{},
                       .loss = kto::Kto{},
                       .reference = kto::live_reference(model),
                       .config = config};
  auto state = trainer.train(rows);
  return {model.parameters[0].second.detach().clone(), std::move(state)};
}

}  // namespace

TEST_CASE("a stream of rows trains as the rows in memory do, over the end of the rows too") {
  const auto rows = toy::rows(22);
  for (const auto scope : {kto::KlScope::micro_batch, kto::KlScope::window})
    for (const bool drop_last : {false, true}) {
      const kto::TrainConfig config{.per_device_train_batch_size = 4,
                                    .gradient_accumulation_steps = 2,
                                    .dataloader_drop_last = drop_last,
                                    .kl_scope = scope,
                                    .max_steps = 7,
                                    .learning_rate = 0.05,
                                    .logging_steps = 1};
      int num_passes = 0;
      const auto [streamed, state] = trained(stream_of(rows, num_passes), config);
      const auto [held, held_state] = trained(rows, config);
      CHECK(at::equal(streamed, held));
      CHECK(num_passes == 3);  // three updates a pass
      REQUIRE(state.log_history.size() == held_state.log_history.size());
      for (std::size_t i = 0; i + 1 < state.log_history.size(); ++i)
        CHECK(state.log_history[i]["loss"] == held_state.log_history[i]["loss"]);
      CHECK(state.log_history[1]["epoch"].get<double>() == Approx(2.0 / 7));  // of the run: the rows are not counted
    }
}

TEST_CASE("a run over a stream goes on to the last bit") {
  const kto_test::TemporaryFolder folder;
  const auto rows = toy::rows(30);
  kto::TrainConfig config{.output_dir = (folder.path() / "out").string(),
                          .per_device_train_batch_size = 4,
                          .max_steps = 12,
                          .learning_rate = 0.05,
                          .save_strategy = kto::SaveStrategy::steps,
                          .save_steps = 5};
  int num_passes = 0;
  const Tensor whole = trained(stream_of(rows, num_passes), config).first;
  for (const int step : {5, 10}) {
    config.resume_from_checkpoint = (folder.path() / "out" / kto::concat("checkpoint-", step)).string();
    CHECK(at::equal(trained(stream_of(rows, num_passes), config).first, whole));
  }
}

TEST_CASE("what needs all rows is refused for a stream, and an empty one is an error") {
  int num_passes = 0;
  const auto refusal = [&](const kto::TrainConfig& config, int count = 8) {
    try {
      trained(stream_of(toy::rows(count), num_passes), config);
    } catch (const std::exception& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK_THAT(refusal({}), KTO_CONTAINS("max_steps"));
  CHECK_THAT(refusal({.train_sampling_strategy = kto::SamplingStrategy::random, .max_steps = 1}),
             KTO_CONTAINS("train_sampling_strategy"));
  CHECK_THAT(refusal({.dataloader_num_workers = 1, .max_steps = 1}), KTO_CONTAINS("dataloader_num_workers"));
  CHECK_THAT(refusal({.max_steps = 1}, 0), KTO_CONTAINS("no rows"));
  CHECK_THAT(refusal({.dataloader_drop_last = true, .max_steps = 1}, 5), KTO_CONTAINS("no rows that make a batch"));
  CHECK(refusal({.max_steps = 3}) == "");
}
