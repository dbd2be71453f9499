// expects: needs kto::PairedCollator
// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

using Mine = kto::Dpo;

void use(kto::Trainer<Model, kto::PackedCollator, Mine, Reference, kto::AdamW>& trainer,
         const std::vector<kto::Example>& rows) {
  train(trainer, rows);
}
