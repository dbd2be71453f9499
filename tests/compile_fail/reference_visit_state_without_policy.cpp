// expects: visit_state(Archive&, const Model& policy)`, and its state would not be saved; see kto/reference/concept.hpp
// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

struct Mine {
  kto::ReferenceLogps log_probs(const Model&, const kto::Batch&) const;
  double share = 0;
  template <class Archive>
  void visit_state(Archive& archive) {
    archive("share", share);
  }
};

void use(kto::Trainer<Model, kto::PackedCollator, kto::Kto, Mine, kto::AdamW>& trainer,
         const std::vector<kto::Example>& rows) {
  train(trainer, rows);
}
