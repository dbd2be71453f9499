// SPDX-License-Identifier: Apache-2.0
// The command-line trainer, with the flags of TRL's scripts/kto.py:
//   train_kto --model_name_or_path DIR --dataset_name rows.jsonl --output_dir out --num_train_epochs 1
// Prints the log at each logging step and leaves the trained model in out/, ready for transformers.

#include "kto/cli/train_main.hpp"
#include "kto/loss/apo_down.hpp"
#include "kto/loss/apo_zero.hpp"
#include "kto/loss/bco.hpp"
#include "kto/loss/dpo.hpp"
#include "kto/loss/ipo.hpp"
#include "kto/loss/kto.hpp"

int main(int argc, char** argv) {
  return kto::cli::train_main<kto::Kto, kto::ApoZeroUnpaired, kto::BcoUnpaired,                   // rows with a label
                              kto::Dpo, kto::Ipo, kto::ApoZeroPaired, kto::ApoDown>(argc, argv);  // pairs
}
