// SPDX-License-Identifier: Apache-2.0
// The folder that a run writes to: one run at a time, nothing replaced unasked, and nothing removed that is not its
// own.
#include <sys/wait.h>

#include "catch.hpp"
#include "examples/toy.hpp"
#include "kto/loss/kto.hpp"
#include "kto/train/checkpoint/output_folder.hpp"
#include "tests/data/temporary_folder.hpp"

namespace test_output_folder {

using kto::OutputFolder;

namespace {

/// Another process, which holds an output folder until this is gone.
class OtherRun {
 public:
  explicit OtherRun(const kto::fs::path& folder) {
    int ready[2], done[2];
    REQUIRE((::pipe(ready) == 0 && ::pipe(done) == 0));
    child_ = ::fork();
    if (child_ == 0) {
      ::close(done[1]);
      const OutputFolder held(folder, /*may_hold_files=*/false);
      char byte = 1;
      if (::write(ready[1], &byte, 1) == 1) (void)!::read(done[0], &byte, 1);
      ::_exit(0);
    }
    ::close(ready[1]), ::close(done[0]);
    char byte = 0;
    CHECK(::read(ready[0], &byte, 1) == 1);
    ::close(ready[0]);
    end_ = done[1];
  }
  OtherRun(const OtherRun&) = delete;
  OtherRun& operator=(const OtherRun&) = delete;
  ~OtherRun() {
    ::close(end_);
    ::waitpid(child_, nullptr, 0);
  }

 private:
  pid_t child_ = -1;
  int end_ = -1;
};

void train(const kto::fs::path& folder, std::int64_t num_steps,
           const std::function<void(kto::TrainConfig&)>& change = {}) {
  const auto model = toy::bigram_model();
  kto::Trainer trainer{.model = model,
                       .collator = kto::PaddedCollator{},
                       .loss = kto::Kto{},
                       .reference = kto::live_reference(model),
                       .config = {.output_dir = folder.string(),
                                  .per_device_train_batch_size = 4,
                                  .max_steps = num_steps,
                                  .save_strategy = kto::SaveStrategy::steps,
                                  .save_steps = 2}};
  if (change) change(trainer.config);
  trainer.train(toy::rows(12));
}

std::vector<std::int64_t> steps_of(const kto::fs::path& folder) {
  std::vector<std::int64_t> out;
  for (const auto& [step, path] : kto::list_checkpoints(folder)) out.push_back(step);
  return out;
}

using Steps = std::vector<std::int64_t>;

}  // namespace

TEST_CASE("an output folder is one run's at a time, and decided once") {
  const kto_test::TemporaryFolder folder;
  const kto::fs::path out = folder.path() / "new/out";
  const auto claim = [&](bool may_hold_files) { const OutputFolder held(out, may_hold_files); };
  {
    const OtherRun other(out);
    for (const bool may_hold_files : {false, true})
      CHECK_THROWS_WITH(claim(may_hold_files), KTO_CONTAINS("another run is writing to this folder"));
    CHECK(kto::fs::exists(out));
  }
  claim(false);
  CHECK(kto::fs::exists(out));  // not made by it
  kto::fs::remove_all(folder.path() / "new");
  claim(false);
  CHECK_FALSE(kto::fs::exists(folder.path() / "new"));  // made by it, and left empty
  folder.write("new/out/model.safetensors", "finished");
  CHECK_THROWS_WITH(claim(false), KTO_CONTAINS("exists and is not empty"));
  CHECK_NOTHROW(claim(true));
  folder.write("file", "x");
  CHECK_THROWS_WITH(OutputFolder(folder.path() / "file/out", false), KTO_CONTAINS("file is a file, not a folder"));
}

TEST_CASE("half-written files of killed runs are removed, and nothing that only looks like them") {
  const kto_test::TemporaryFolder folder;
  const char* own[] = {".unfinished-checkpoint-7/model.safetensors",
                       ".unfinished-checkpoint-7-removed/x",
                       ".unfinished-checkpoint-8-old/x",
                       "model.safetensors.tmp999999",
                       "model-00001-of-00002.safetensors.tmp1",
                       "adapter_model.safetensors.tmp999999-1",
                       "tokenizer.json.tmp999999",
                       "trainer_state.json.tmp999999"};
  for (const char* name : own) folder.write(name, "half");
  CHECK_NOTHROW(OutputFolder(folder.path(), /*may_hold_files=*/false));  // it counts as empty
  CHECK(kto::fs::is_empty(folder.path()));

  const char* others[] = {".unfinished-checkpoint-mine/y", ".unfinished-checkpoint-7x/y", ".unfinished-checkpoint-07/y",
                          ".unfinished-checkpoint-9",      "thesis.txt.tmp999999",        "model.safetensors.tmp",
                          "model.safetensors.tmpfile",     "my-model.safetensors.tmp12",  "checkpoint-3/thesis.txt"};
  for (const char* name : others) folder.write(name, "the user's");
  for (const char* name : own) folder.write(name, "half");
  CHECK_THROWS_WITH(OutputFolder(folder.path(), /*may_hold_files=*/false), KTO_CONTAINS("not empty"));
  CHECK(kto::fs::exists(folder.path() / own[0]));  // refused: nothing is changed
  CHECK_NOTHROW(OutputFolder(folder.path(), /*may_hold_files=*/true));
  for (const char* name : others) CHECK(kto::fs::exists(folder.path() / name));
  for (const char* name : own) CHECK_FALSE(kto::fs::exists(folder.path() / name));
}

TEST_CASE("a checkpoint that was being replaced without an exchange of names gets its name back") {
  const kto_test::TemporaryFolder folder;
  folder.write(".unfinished-checkpoint-4-old/kto_checkpoint.json", "{}");
  folder.write(".unfinished-checkpoint-4/kto_checkpoint.json", "{}");
  const OutputFolder held(folder.path(), /*may_hold_files=*/false);
  CHECK(kto::fs::exists(folder.path() / "checkpoint-4/kto_checkpoint.json"));
  CHECK(std::distance(kto::fs::directory_iterator(folder.path()), kto::fs::directory_iterator()) == 1);
}

TEST_CASE("checkpoints of other programs are neither resumed from, nor counted, nor removed") {
  const kto_test::TemporaryFolder folder;
  const kto::fs::path out = folder.path() / "out";
  const auto overwrite = [](kto::TrainConfig& config) { config.overwrite_output_dir = true; };
  train(out, 4);
  REQUIRE(steps_of(out) == Steps{2, 4});
  for (const char* name : {"out/checkpoint-1/thesis.txt", "out/checkpoint-9/model.safetensors", "out/checkpoint-08/x"})
    folder.write(name, "the user's");
  CHECK(*kto::checkpoint_to_resume({.output_dir = out.string(), .resume_from_checkpoint = "True"}) ==
        out / "checkpoint-4");
  train(out, 6, [](kto::TrainConfig& config) {
    config.resume_from_checkpoint = "True";
    config.save_total_limit = 1;
  });
  CHECK(steps_of(out) == Steps{6});
  train(out, 2, overwrite);
  CHECK(steps_of(out) == Steps{2});
  for (const char* name : {"checkpoint-1/thesis.txt", "checkpoint-9/model.safetensors", "checkpoint-08/x"})
    CHECK(kto::fs::exists(out / name));

  kto::fs::remove_all(out / "checkpoint-2");
  CHECK_THROWS_WITH(kto::checkpoint_to_resume({.output_dir = out.string(), .resume_from_checkpoint = "True"}),
                    KTO_CONTAINS("no checkpoint-N of this program") && KTO_CONTAINS("kto_checkpoint.json"));
}

TEST_CASE("if something else is in the place of a checkpoint, a run reports it before training and leaves it") {
  const kto_test::TemporaryFolder folder;
  const kto::fs::path out = folder.path() / "out";
  folder.write("out/checkpoint-4/thesis.txt", "the user's");
  const auto refused = KTO_CONTAINS("checkpoint-4: is in the way of a checkpoint of this run");
  CHECK_THROWS_WITH(train(out, 6), refused);
  CHECK_THROWS_WITH(train(out, 4), refused);
  CHECK_THROWS_WITH(train(out, 6, [](kto::TrainConfig& config) { config.overwrite_output_dir = true; }), refused);
  CHECK(steps_of(out).empty());
  train(out, 6, [](kto::TrainConfig& config) { config.save_steps = 3; });  // none is written there
  CHECK(steps_of(out) == Steps{3, 6});

  folder.write("out/checkpoint-1", "a file");
  kto::fs::create_symlink("nowhere", out / "checkpoint-5");
  for (const std::int64_t step : {1, 4, 5})
    CHECK_THROWS_WITH(
        kto::write_checkpoint_folder(out, step, {.save_model = [](const kto::fs::path&) {}, .texts = {}, .states = {}}),
        KTO_CONTAINS("is in the way"));
  CHECK(kto::read_file(out / "checkpoint-4/thesis.txt") == "the user's");
  CHECK(kto::read_file(out / "checkpoint-1") == "a file");
  CHECK_THROWS_WITH(kto::remove_checkpoint(out / "checkpoint-4"), KTO_CONTAINS("is not a checkpoint of this program"));
}

}  // namespace test_output_folder
