// SPDX-License-Identifier: Apache-2.0
// Training on a stream of rows: the run over the same rows in memory, without ever holding them all.
#include "catch.hpp"
#include "examples/toy.hpp"
#include "kto/loss/kto.hpp"
#include "tests/data/temporary_folder.hpp"

namespace test_feed {

using kto::Tensor;
namespace fs = std::filesystem;

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

TEST_CASE("a run over a stream resumes to the last bit") {
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
  config.save_steps = 8;  // the end of a pass, whose last batch is not full
  config.resume_from_checkpoint = std::nullopt, config.overwrite_output_dir = true;
  trained(stream_of(rows, num_passes), config);
  config.resume_from_checkpoint = (folder.path() / "out" / "checkpoint-8").string();
  CHECK(at::equal(trained(stream_of(rows, num_passes), config).first, whole));
}

TEST_CASE("rows of a stream that have changed since the checkpoint end the run before they are trained on") {
  const kto_test::TemporaryFolder folder;
  const auto rows = toy::rows(30);  // 8 updates a pass
  kto::TrainConfig config{.output_dir = (folder.path() / "out").string(),
                          .per_device_train_batch_size = 4,
                          .max_steps = 20,
                          .learning_rate = 0.05,
                          .save_strategy = kto::SaveStrategy::steps,
                          .save_steps = 1};
  int num_passes = 0;
  const Tensor whole = trained(stream_of(rows, num_passes), config).first;
  std::int64_t last_step = 0;
  Tensor weights;
  const auto resumed = [&](std::vector<kto::Example> now, const fs::path& from) {
    kto::TrainConfig on = config;
    on.resume_from_checkpoint = from.string(), on.save_strategy = kto::SaveStrategy::no;
    const auto model = toy::bigram_model();
    kto::Callback count{
        .on_step_end = [&](const kto::TrainerState& state, kto::Control&) { last_step = state.global_step; }};
    kto::Trainer trainer{.model = model,
                         .collator = kto::PaddedCollator{},
                         .loss = kto::Kto{},
                         .reference = kto::live_reference(model),
                         .config = on,
                         .callbacks = {count}};
    last_step = 0;
    const std::string error = kto_test::error_of([&] { trainer.train(stream_of(std::move(now), num_passes)); });
    weights = model.parameters[0].second.detach().clone();
    return error;
  };
  const auto checkpoint = [&](int step) { return folder.path() / "out" / kto::concat("checkpoint-", step); };
  for (const int step : {1, 5, 8, 10, 16}) {
    const std::size_t passed = step < 8 ? static_cast<std::size_t>(step) * 4 : rows.size();
    for (const std::size_t changed : {0, 3, 4, 19, 20, 29}) {
      INFO("step " << step << ", row " << changed + 1);
      auto others = rows;
      others[changed].label = !others[changed].label;
      const std::string error = resumed(others, checkpoint(step));
      if (changed >= passed) {
        CHECK(error == "");
        continue;
      }
      CHECK_THAT(error, KTO_CONTAINS(kto::concat("row ", changed + 1, " has changed since the checkpoint")));
      CHECK(last_step <= step / 8 * 8 + static_cast<int>(changed / 4));  // updates before that of the row
    }
    CHECK(resumed({rows.begin() + 1, rows.end()}, checkpoint(step)) != "");
    CHECK_THAT(resumed({rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(passed) - 1}, checkpoint(step)),
               KTO_CONTAINS(kto::concat("ends after ", passed - 1, " rows, but the run was trained on ", passed)));
    auto grown = rows;
    grown.insert(grown.end(), 7, rows[0]);
    CHECK(resumed(grown, checkpoint(step)) == "");
  }

  auto others = rows;
  others[0].label = !others[0].label;
  config.ignore_data_skip = true;
  CHECK(resumed(others, checkpoint(5)) == "");
  config.ignore_data_skip = false;

  auto manifest = kto::read_json(checkpoint(5) / kto::checkpoint_manifest);  // as an earlier version wrote it
  manifest["values"]["sampler"].erase("stream");
  manifest["identity"]["rows"]["train"] = kto::detail::rows_hash({});
  manifest.erase("checksum");
  manifest["checksum"] = kto::detail::text_hash(manifest.dump());
  kto::write_file(checkpoint(5) / kto::checkpoint_manifest, manifest.dump(2) + "\n");
  CHECK(resumed(others, checkpoint(5)) == "");
  CHECK(resumed(rows, checkpoint(5)) == "");
  CHECK(at::equal(weights, whole));
}

TEST_CASE("few marks know where any number of rows has changed") {
  auto rows = toy::rows(5000);
  kto::RowMarker marker;
  for (const auto& row : rows) marker.add(row);
  const auto marks = kto::RowMarks::from_json(marker.marks().to_json(), "here");
  CHECK((marks.count == 5000 && marks.every == 8 && marks.hashes.size() == 16 * 625));
  const auto failure = [&](const std::vector<kto::Example>& now) {
    kto::RowCheck check(marks, [](std::size_t row) { return row <= 2000 ? "a.jsonl" : "b.jsonl"; });
    std::int64_t good = 0;
    const std::string error = kto_test::error_of([&] {
      for (const auto& row : now) {
        check.add(row);
        good = check.num_good();
      }
      check.end();
    });
    return std::pair(error, good);
  };
  CHECK(failure(rows) == std::pair(std::string(), INT64_MAX));
  for (const std::size_t changed : {0, 7, 8, 1999, 2001, 4999}) {
    auto others = rows;
    others[changed].completion_ids[1] ^= 1;
    const auto [error, good] = failure(others);
    const std::size_t begin = changed / 8 * 8;
    CHECK(good == static_cast<std::int64_t>(begin));
    CHECK_THAT(error, KTO_CONTAINS(kto::concat(changed < 2000 ? "a.jsonl" : "b.jsonl", ": one of the rows ", begin + 1,
                                               " to ", begin + 8, " has changed")));
  }
  rows.resize(4990);
  CHECK_THAT(failure(rows).first, KTO_CONTAINS("b.jsonl: ends after 4990 rows, but the run was trained on 5000"));

  kto::RowMarker shorter, other;
  for (std::size_t i = 0; i < 1500; ++i) shorter.add(rows[i]), other.add(rows[i + 1]);
  CHECK(agree(marks, shorter.marks()));
  CHECK_FALSE(agree(marks, other.marks()));
  auto damaged = marker.marks().to_json();
  damaged["count"] = 5008;
  CHECK_THROWS_WITH(kto::RowMarks::from_json(damaged, "here"),
                    KTO_CONTAINS("here: the hashes of its rows are damaged"));
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
  CHECK_THAT(refusal({.max_steps = 1}, 0), KTO_CONTAINS("too few rows"));
  CHECK_THAT(refusal({.dataloader_drop_last = true, .max_steps = 1}, 5), KTO_CONTAINS("too few rows for a batch"));
  CHECK(refusal({.max_steps = 3}) == "");
}

}  // namespace test_feed
