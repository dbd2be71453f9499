// expects: log_probs(const Model&, const kto::Batch&) const` in your reference; see kto/reference/concept.hpp
// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

struct Mine {
  Tensor log_probs(const Model&, const kto::Batch&) const;
};

void use(kto::Trainer<Model, kto::PackedCollator, kto::Kto, Mine, kto::AdamW>& trainer,
         const std::vector<kto::Example>& rows) {
  train(trainer, rows);
}
