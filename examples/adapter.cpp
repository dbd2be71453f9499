// SPDX-License-Identifier: Apache-2.0
// LoRA, checkpoints, resuming and reports, from code.
//   adapter MODEL_FOLDER ROWS.jsonl OUTPUT_FOLDER
// Trains an adapter for one epoch with a checkpoint after every second update, and saves it as PEFT does. After Ctrl-C or
// a crash, start it again with the same arguments: it resumes from the newest checkpoint, prints which, and ends with the
// same adapter, to the last bit. OUTPUT_FOLDER/report.html shows how it goes.
#include "kto/model/adapter.hpp"

#include <cstdio>
#include <iostream>

#include "kto/collate/packed.hpp"
#include "kto/core/terminal.hpp"
#include "kto/data/encode.hpp"
#include "kto/data/processor.hpp"
#include "kto/data/rows.hpp"
#include "kto/loss/kto.hpp"
#include "kto/model/pretrained.hpp"
#include "kto/reference/live.hpp"
#include "kto/train/callbacks/report_html.hpp"
#include "kto/train/callbacks/stop_signals.hpp"
#include "kto/train/callbacks/trackers/wandb.hpp"
#include "kto/train/trainer.hpp"

int main(int argc, char** argv) try {
  if (argc != 4) throw kto::UsageError("usage: adapter MODEL_FOLDER ROWS.jsonl OUTPUT_FOLDER");
  const kto::fs::path folder = argv[1], out = argv[3];
  const kto::StopSignals signals;  // Ctrl-C: finish the update, save a checkpoint, return
  const kto::Processor processor(folder);
  const auto rows = kto::encode_rows(kto::read_rows(argv[2]), processor.encoder(), {.max_length = 512});

  // [lora]
  const kto::Decoder base = kto::load_pretrained(folder);
  const kto::AdaptedDecoder adapted =
      kto::with_adapter(base, {.r = 8, .lora_alpha = 16, .target_pattern = "all-linear"});
  const auto save = [&](const kto::fs::path& to) { kto::save_adapter(adapted, to, folder, processor.named_tokens()); };
  // [lora]
  // [resume]
  const auto checkpoints = kto::list_checkpoints(out);  // by step
  kto::TrainConfig config{.output_dir = out,
                          .per_device_train_batch_size = 4,
                          .num_train_epochs = 1,
                          .learning_rate = 1e-3,
                          .logging_steps = 1,
                          .save_strategy = kto::SaveStrategy::steps,
                          .save_steps = 2,
                          .save_total_limit = 2};
  if (!checkpoints.empty()) {
    config.resume_from_checkpoint = checkpoints.rbegin()->second;
    std::printf("resuming from %s\n", config.resume_from_checkpoint->c_str());
  }
  // [resume]
  // [trackers]
  const kto::Callbacks reports{kto::report_html({.path = out / "report.html", .title = "adapter"}),
                               kto::report_wandb({.folder = out, .name = "adapter"})};
  // [trackers]
  kto::Trainer trainer{.model = adapted.policy,
                       .collator = kto::PackedCollator{.max_length = 512},
                       .loss = kto::Kto{},
                       .reference = kto::live_reference(base),  // shares the frozen weights
                       .config = config,
                       .callbacks = reports,
                       .checkpointing = {.save_model = save}};
  const kto::TrainerState state = trainer.train(rows.examples);
  if (state.interrupted) return kto::StopSignals::exit_status();
  save(out);
  std::printf("saved the adapter after %d updates\n", static_cast<int>(state.global_step));
} catch (const std::exception& error) {
  return kto::report_error("adapter", error);
}
