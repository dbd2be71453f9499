// expects: void follow(const Model& policy, std::int64_t step)`, and it would never move; see kto/reference/concept.hpp
// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

struct Mine {
  kto::ReferenceLogps log_probs(const Model&, const kto::Batch&) const;
  void follow(const Model& policy);
};

void use(kto::Trainer<Model, kto::PackedCollator, kto::Kto, Mine, kto::AdamW>& trainer,
         const std::vector<kto::Example>& rows) {
  train(trainer, rows);
}
