// SPDX-License-Identifier: Apache-2.0
// The files of a checkpoint-N besides the model: kto_checkpoint.json, the state of an optimizer, trainer_state.json.
#include "fuzz.hpp"
#include "kto/optim/adafactor.hpp"
#include "kto/optim/adamw.hpp"
#include "kto/optim/plateau.hpp"
#include "kto/train/checkpoint/folder.hpp"
#include "kto/train/checkpoint/run_changes.hpp"
#include "kto/train/run_log.hpp"

namespace {

template <class Holder>
void restore(const kto::CheckpointFolder& folder, const char* part, Holder holder) {
  try {
    kto::StateReader archive(folder.state(part), at::kCPU, part);
    holder.visit_state(archive);
  } catch (const kto::Error&) {  // NOLINT(bugprone-empty-catch): the next part may be whole
  }
}

void restore_all(const kto::CheckpointFolder& folder) {
  restore(folder, "optimizer", kto::AdamW{});
  restore(folder, "optimizer", kto::Adafactor{});
  restore(folder, "scheduler", kto::GreedyRate{});
  restore(folder, "log", kto::RunLog{});
}

}  // namespace

// The manifest with the checksum that belongs to it, so that what comes after that check is reached, too.
void fuzz::checkpoint(std::string_view bytes) {
  file("model.safetensors", "0123456789");
  kto::Json manifest = kto::parse_json(bytes, "kto_checkpoint.json");
  if (manifest.is_object()) {
    manifest.erase("checksum");
    manifest["checksum"] = kto::detail::text_hash(manifest.dump());
  }
  file("kto_checkpoint.json", manifest.dump());
  const kto::CheckpointFolder opened = kto::open_checkpoint(folder());
  const kto::Json now = {{"options", {{"beta", 0.1}}}, {"files", {{"data/train.jsonl", "0"}}}, {"weights", "1"}};
  kto::change_notes(kto::run_changes(opened.manifest.value("identity", kto::Json()), now), now, 1);
  restore_all(opened);
}

// Line 1: the state's values. All after it: its tensors, a safetensors file.
void fuzz::optimizer_state(std::string_view bytes) {
  const auto line = bytes.substr(0, bytes.find('\n'));
  const kto::Json values = kto::parse_json(line, "kto_checkpoint.json");
  for (const char* name : {"optimizer.safetensors", "log.safetensors"})
    file(name, bytes.substr(std::min(line.size() + 1, bytes.size())));
  restore_all({folder(),
               {{"values", {{"optimizer", values}, {"scheduler", values}, {"log", values}}},
                {"files", {{"optimizer.safetensors", 1}, {"log.safetensors", 1}}}}});
}

void fuzz::trainer_state(std::string_view bytes) {
  const auto state = kto::trainer_state_from_json(kto::parse_json(bytes, "trainer_state.json"), "trainer_state.json");
  kto::to_json(state, {}, {}).dump();
}
