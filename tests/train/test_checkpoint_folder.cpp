// SPDX-License-Identifier: Apache-2.0
// Malformed manifests and states of checkpoints: entries of unexpected kinds are damage, reported with the file.
#include "catch.hpp"
#include "kto/train/checkpoint/folder.hpp"
#include "tests/data/temporary_folder.hpp"

namespace test_checkpoint_folder {
namespace {

/// Opens a checkpoint with this manifest, whose checksum is made right, and reads the part "log".
kto::SavedState opened(kto::Json manifest) {
  const kto_test::TemporaryFolder folder;
  folder.write("weights", "0123456789");
  manifest["checksum"] = kto::detail::text_hash(manifest.dump());
  folder.write("kto_checkpoint.json", manifest.dump());
  return kto::open_checkpoint(folder.path()).state("log");
}

}  // namespace

TEST_CASE("a manifest with entries of unexpected kinds is damage") {
  const kto::Json good = {{"format", kto::checkpoint_format},
                          {"values", {{"log", {{"a", 1}}}}},
                          {"files", {{"weights", {{"size", 10}, {"hash", kto::detail::text_hash("0123456789")}}}}}};
  CHECK(opened(good).values == kto::Json{{"a", 1}});
  const std::tuple<const char*, kto::Json, const char*> changes[] = {
      {"/format", 7, "has the format 7, expected \"kto checkpoint 1\""},
      {"/files", 3, "kto_checkpoint.json: is damaged"},
      {"/files", {{"weights", 3}}, "it has no size and hash of weights"},
      {"/files/weights/size", "10", "weights: has 10 bytes, but had \"10\" when it was saved"},
      {"/files/weights/hash", nullptr, "weights: is damaged"},
      {"/files/gone", {{"size", 1}, {"hash", ""}}, "gone: is missing"},
      {"/values", 3, "kto_checkpoint.json: is damaged"},
      {"/values", kto::Json::object(), "holds only the model"},
      {"/values/log", kto::Json::array({1}), "the values of log are not an object"},
  };
  for (const auto& [place, value, message] : changes) {
    kto::Json manifest = good;
    manifest[kto::Json::json_pointer(place)] = value;
    INFO(place << ' ' << value.dump());
    CHECK_THROWS_WITH(opened(manifest), KTO_CONTAINS(message));
  }
}

TEST_CASE("weights that no manifest lists are refused, and other files are not looked at") {
  const kto_test::TemporaryFolder folder;
  folder.write("model.safetensors", "0123456789");
  kto::Json manifest = {
      {"format", kto::checkpoint_format},
      {"values", {{"log", {{"a", 1}}}}},
      {"files", {{"model.safetensors", {{"size", 10}, {"hash", kto::detail::text_hash("0123456789")}}}}}};
  manifest["checksum"] = kto::detail::text_hash(manifest.dump());
  folder.write("kto_checkpoint.json", manifest.dump());
  folder.write("notes.txt", "mine");
  CHECK(kto::open_checkpoint(folder.path()).has("model.safetensors"));
  for (const char* stray : {"adapter_model.safetensors", "optimizer.safetensors", "model.safetensors.index.json"}) {
    folder.write(stray, "x");
    CHECK_THROWS_WITH(kto::open_checkpoint(folder.path()),
                      KTO_CONTAINS(stray) && KTO_CONTAINS("was not saved with this checkpoint"));
    kto::fs::remove(folder.path() / stray);
  }
}

TEST_CASE("a list that is longer than all there is in a saved state is damage") {
  struct Holder {
    std::vector<double> numbers;
    void visit_state(kto::StateReader& archive) { archive("numbers", numbers); }
  } holder;
  const std::pair<kto::Json, const char*> damaged[] = {
      {std::uint64_t{1} << 60U, "checkpoint-1: log: numbers is 1152921504606846976; expected the length of a list"},
      {-1, "checkpoint-1: log: numbers has the unexpected value -1"},
      {"2", "checkpoint-1: log: numbers has the unexpected value \"2\""},
      {2.5, "checkpoint-1: log: numbers has the unexpected value 2.5"},
  };
  for (const auto& [count, message] : damaged) {
    kto::StateReader archive({.tensors = {}, .values = {{"numbers", count}}}, at::kCPU, "checkpoint-1: log");
    CHECK_THROWS_WITH(holder.visit_state(archive), KTO_CONTAINS(message));
  }
  kto::StateReader archive({.tensors = {}, .values = {{"numbers", 2}, {"numbers.0", 0.5}, {"numbers.1", "inf"}}},
                           at::kCPU, "log");
  holder.visit_state(archive);
  CHECK(holder.numbers == std::vector<double>{0.5, INFINITY});
}

}  // namespace test_checkpoint_folder
