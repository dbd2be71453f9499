// SPDX-License-Identifier: Apache-2.0
// What trackers get of a run, and what of it survives a resumed run. (e2e.watching reads it with their own programs.)
#include <cmath>
#include <cstdlib>

#include "catch.hpp"
#include "kto/io/sha256.hpp"
#include "kto/train/callbacks/trackers/trackio.hpp"
#include "kto/train/callbacks/trackers/wandb.hpp"
#include "tests/data/temporary_folder.hpp"

namespace test_trackers {

using kto::Json;
namespace fs = std::filesystem;

namespace {

Json entry_of(std::int64_t step) {
  Json entry = {{"loss", 1.0 / static_cast<double>(step)}, {"step", step}};
  if (step == 2)
    entry = {{"eval_loss", std::nan("")}, {"eval_samples", {{{"prompt", "p"}, {"policy", "a\xff"}}}}, {"step", 2}};
  if (step == 3) entry["long"] = 3, entry["text"] = "not a number";
  return entry;
}

/// Reports the entries (first, last] of a run with so many entries before it.
void run(kto::Callback callback, std::int64_t first, std::int64_t last, bool ends) {
  kto::TrainerState state;
  kto::Control control;
  for (std::int64_t step = 1; step <= first; ++step) state.log_history.push_back(entry_of(step));
  state.global_step = first;
  callback.on_train_begin(state, {});
  for (std::int64_t step = first + 1; step <= last; ++step) {
    state.global_step = step;
    callback.on_log(state, entry_of(step), control);
    state.log_history.push_back(entry_of(step));
  }
  if (ends) callback.on_train_end(state);
}

/// The files below `folder` with this ending, by name.
std::vector<fs::path> files_with(const fs::path& folder, std::string_view ending) {
  std::vector<fs::path> out;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.path().string().ends_with(ending)) out.push_back(entry.path());
  std::sort(out.begin(), out.end());
  return out;
}

/// The kinds of a .wandb file's records: their fields of Record.
std::vector<unsigned> kinds_in(const std::string& file) {
  std::vector<unsigned> out;
  std::uint64_t number = 0;
  kto::detail::visit_wandb_records(file, [&](std::string_view record, std::size_t) {
    CHECK(kto::detail::proto_field(record, 1)->number == ++number);
    for (const unsigned kind : {2U, 3U, 6U, 12U, 17U, 18U, 21U})
      if (kto::detail::proto_field(record, kind)) out.push_back(kind);
    return true;
  });
  return out;
}

}  // namespace

TEST_CASE("checksums and hashes have their published values") {
  CHECK(kto::detail::crc32("123456789") == 0xCBF43926U);
  CHECK(kto::detail::crc32("456789", kto::detail::crc32("123")) == 0xCBF43926U);
  CHECK(kto::sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(kto::sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(kto::sha256(std::string(64, 'a')) == "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb");
}

TEST_CASE("records of any length cross the blocks of a .wandb file") {
  const kto_test::TemporaryFolder folder;
  const fs::path path = folder.path() / "run.wandb";
  const kto::WandbRun about{.id = "abc", .project = "p", .name = "n"};
  const std::size_t lengths[] = {1, 32600, 100, 70000, 32768, 1, 3, 65000};
  {
    kto::WandbFile file(path, about, 0);
    for (const std::size_t length : lengths) file.add_history({{"text", std::string(length, 'x')}});
  }
  const auto texts = [&] {
    std::vector<std::size_t> out;
    kto::detail::visit_wandb_records(kto::read_file(path), [&](std::string_view record, std::size_t) {
      if (const auto history = kto::detail::proto_field(record, 2))
        out.push_back(kto::detail::proto_field(kto::detail::proto_field(history->bytes, 1)->bytes, 16)->bytes.size() -
                      2);
      return true;
    });
    return out;
  };
  CHECK(texts() == std::vector<std::size_t>(std::begin(lengths), std::end(lengths)));
  fs::resize_file(path, fs::file_size(path) - 10);  // the run was killed in the middle of a write
  CHECK(texts().size() == 7);
  kto::WandbFile(path, about, 20).add_history({{"text", "new"}});
  CHECK(texts().size() == 8);
  CHECK(texts().back() == 3);
}

TEST_CASE("a wandb run is whole, and resumed in its folder") {
  const kto_test::TemporaryFolder folder;
  std::vector<std::string> notes;
  const kto::TrackedRun tracked{
      .folder = folder.path(), .name = "night", .config = {{"beta", 0.1}}, .note = [&](const std::string& text) {
        notes.push_back(text);
      }};
  const auto content = [&] {
    const auto found = files_with(folder.path(), ".wandb");
    REQUIRE(found.size() == 1);
    return kto::read_file(found[0]);
  };
  run(kto::report_wandb(tracked), 0, 3, false);
  CHECK(kinds_in(content()) == std::vector<unsigned>{21, 17, 12, 12, 3, 2, 6, 3, 2, 3, 2, 3, 18});
  CHECK_THAT(content(), KTO_CONTAINS("night") && KTO_CONTAINS("train/loss") && KTO_CONTAINS("eval/loss") &&
                            KTO_CONTAINS("NaN") && KTO_CONTAINS("table-file"));
  CHECK_THAT(content(), !KTO_CONTAINS("not a number"));
  CHECK(notes.empty());
  run(kto::report_wandb(tracked), 2, 4, true);  // the checkpoint was of step 2
  CHECK(kinds_in(content()) == std::vector<unsigned>{21, 17, 12, 12, 3, 2, 6, 3, 2, 3, 2, 3, 2, 3, 18});
  REQUIRE(notes.size() == 1);
  CHECK_THAT(notes[0], KTO_CONTAINS("wandb sync ") && KTO_CONTAINS("/wandb/offline-run-"));
  const auto table = files_with(folder.path(), ".table.json");
  REQUIRE(table.size() == 1);
  CHECK(kto::read_json(table[0])["data"] == Json::parse("[[\"p\", \"a\\ufffd\"]]"));
  fs::remove_all(folder.path() / "wandb");
  run(kto::report_wandb(tracked), 2, 3, true);  // a lost folder is written again, from the log
  CHECK(kinds_in(content()) == std::vector<unsigned>{21, 17, 12, 12, 3, 2, 6, 3, 2, 3, 2, 3, 18});
}

TEST_CASE("Trackio gets each entry under the same id, however often a run is resumed") {
  const kto_test::TemporaryFolder folder;
  ::setenv("TRACKIO_DIR", (folder.path() / "trackio").c_str(), 1);
  std::vector<std::string> notes;
  const kto::TrackedRun tracked{.folder = folder.path(),
                                .project = "p",
                                .name = "night",
                                .config = {{"beta", 0.1}},
                                .note = [&](const std::string& text) { notes.push_back(text); }};
  run(kto::report_trackio(tracked), 0, 3, false);
  run(kto::report_trackio(tracked), 2, 4, true);
  std::map<std::string, Json> records;
  std::size_t num_lines = 0;
  for (const fs::path& path : files_with(folder.path(), ".jsonl")) {
    std::istringstream lines(kto::read_file(path));
    for (std::string line; std::getline(lines, line); ++num_lines) {
      const Json record = kto::parse_json(line, "line");
      CHECK(record["project"] == "p");
      CHECK(record["run"] == "night");
      records[record["log_id"]] = record;
    }
  }
  CHECK(num_lines == 3 + 4);
  REQUIRE(records.size() == 4);
  const Json evaluation = std::next(records.begin())->second;
  CHECK(evaluation["step"] == 2);
  CHECK(evaluation["metrics"] == Json::parse(R"({"eval/loss": "NaN", "train/global_step": 2, "eval/samples":
    {"_type": "trackio.table", "_value": [{"prompt": "p", "policy": "a\ufffd"}]}})"));
  CHECK(records.begin()->second["config"]["beta"] == 0.1);

  kto::write_file(folder.path() / "file", "");
  ::setenv("TRACKIO_DIR", (folder.path() / "file").c_str(), 1);
  run(kto::report_trackio(tracked), 0, 3, true);
  ::unsetenv("TRACKIO_DIR");
  REQUIRE(notes.size() == 1);
  CHECK_THAT(notes[0], KTO_CONTAINS("report_to trackio: ") && KTO_CONTAINS("the run goes on without it"));
}

}  // namespace test_trackers
