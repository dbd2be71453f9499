// expects: const`, and a resumed run would not be compared by it; see kto/reference/concept.hpp
// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

struct Mine {
  kto::ReferenceLogps log_probs(const Model&, const kto::Batch&) const;
  std::string identity() const;
};

void use(kto::Trainer<Model, kto::PackedCollator, kto::Kto, Mine, kto::AdamW>& trainer,
         const std::vector<kto::Example>& rows) {
  train(trainer, rows);
}
