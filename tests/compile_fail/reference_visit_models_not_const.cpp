// expects: const`, and its models would not be checked; see kto/reference/concept.hpp
// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

struct Mine {
  kto::ReferenceLogps log_probs(const Model&, const kto::Batch&) const;
  template <class Visit>
  void visit_models(const Visit&);
};

void use(kto::Trainer<Model, kto::PackedCollator, kto::Kto, Mine, kto::AdamW>& trainer,
         const std::vector<kto::Example>& rows) {
  train(trainer, rows);
}
