// expects: a reference must not track gradients
// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

struct Mine {
  static constexpr bool tracks_gradient = true;
  kto::ReferenceLogps log_probs(const Model&, const kto::Batch&) const;
};

void use(kto::Trainer<Model, kto::PackedCollator, kto::Kto, Mine, kto::AdamW>& trainer,
         const std::vector<kto::Example>& rows) {
  train(trainer, rows);
}
