// SPDX-License-Identifier: Apache-2.0
// The losses of pairs trained on a real decoder follow TRL's DPOTrainer (tests/golden/losses/trl_paired.json, in
// float64).
#include "catch.hpp"
#include "kto/kto.hpp"

namespace test_trl_paired {
namespace {

template <class Loss>
void follow(const kto::Json& want, const Loss& loss) {
  const kto::fs::path shared = KTO_SHARED_DIR;
  const kto::fs::path folder = shared / "golden/models/llama-320fea";
  if (!kto::fs::exists(folder)) {
    WARN("skipped: " << folder << " is not there");
    return;
  }
  const kto::Processor processor(folder);
  kto::RowSet set = kto::read_rows(shared / "data/preferences/paired_en.jsonl");
  auto rows = kto::pair_up(kto::encode_rows(set, processor.encoder(), {.max_length = 256}).examples);
  std::erase_if(rows, [](const kto::Example& row) { return row.row > 16; });
  const kto::Decoder model = kto::load_pretrained(folder, at::kDouble);
  kto::Trainer trainer{
      .model = model,
      .collator = kto::PairedCollator<>{.layout = {.max_length = 256}},
      .loss = loss,
      .reference = kto::live_reference(model),
      .config = {.per_device_train_batch_size = 4, .max_steps = 4, .learning_rate = 1e-3, .logging_steps = 1}};
  const kto::TrainerState state = trainer.train(rows);
  for (std::size_t step = 0; step < 4; ++step)
    for (const auto& [key, value] : want[step].items()) {
      INFO("step " << step + 1 << ' ' << key);
      const kto::Json got = state.log_history[step][key];
      CHECK(got.get<double>() == Approx(value.template get<double>()).epsilon(2e-5).margin(2e-5));
    }
}

}  // namespace

TEST_CASE("paired losses follow TRL's DPOTrainer") {
  const kto::Json want = kto::read_json(kto::fs::path(KTO_SOURCE_DIR) / "tests/golden/losses/trl_paired.json");
  SECTION("dpo") { follow(want["sigmoid"], kto::Dpo{}); }
  SECTION("ipo") { follow(want["ipo"], kto::Ipo{}); }
  SECTION("apo_zero") { follow(want["apo_zero"], kto::ApoZeroPaired{}); }
  SECTION("apo_down") { follow(want["apo_down"], kto::ApoDown{}); }
}

}  // namespace test_trl_paired
