// SPDX-License-Identifier: Apache-2.0
// A researcher's program: policies composed by hand, without a command line.
//   minimal MODEL_FOLDER ROWS.jsonl OUTPUT_FOLDER
// Trains one epoch with KTO, prints the log, and saves a model that transformers loads.
#include <iostream>

#include "kto/kto.hpp"

int main(int argc, char** argv) try {
  if (argc != 4) throw kto::UsageError("usage: minimal MODEL_FOLDER ROWS.jsonl OUTPUT_FOLDER");
  const kto::Processor processor(argv[1]);
  const auto rows = kto::encode_rows(kto::read_rows(argv[2]), processor.encoder(), {.max_length = 512});
  for (const auto& note : rows.notes) std::cerr << "note: " << kto::printable(note) << '\n';

  const kto::Decoder model = kto::load_pretrained(argv[1]);
  kto::Trainer trainer{
      .model = model,
      .collator = kto::PackedCollator{.max_length = 512},
      .loss = kto::Kto{.beta = 0.1},
      .reference = kto::live_reference(model),
      .config = {.per_device_train_batch_size = 4, .num_train_epochs = 1, .learning_rate = 5e-6, .logging_steps = 1},
      .callbacks = {kto::show_progress()},
  };
  trainer.train(rows.examples);
  kto::save_pretrained(model, argv[3], argv[1], processor.named_tokens());
} catch (const std::exception& error) {
  return kto::report_error("minimal", error);
}
