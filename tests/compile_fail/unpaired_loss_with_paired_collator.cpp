// expects: any other loss an unpaired one
// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

using Mine = kto::PairedCollator<>;

void use(kto::Trainer<Model, Mine, kto::Kto, Reference, kto::AdamW>& trainer, const std::vector<kto::Example>& rows) {
  train(trainer, rows);
}
