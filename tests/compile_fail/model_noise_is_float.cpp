// expects: double neftune_noise_alpha`, and it would never be set; see kto/model/concept.hpp
// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

struct Mine : Model {
  float neftune_noise_alpha = 0;
};

struct MineReference {
  kto::ReferenceLogps log_probs(const Mine&, const kto::Batch&) const;
};

void use(kto::Trainer<Mine, kto::PaddedCollator, kto::Kto, MineReference, kto::AdamW>& trainer,
         const std::vector<kto::Example>& rows) {
  train(trainer, rows);
}
