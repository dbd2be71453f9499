// expects: your loss has another `visit_state` than `template <class Archive> void visit_state(Archive&)`
// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

struct Mine : kto::ApoZeroUnpaired {
  double seen = 0;
  void visit_state(kto::StateWriter& archive) { archive("seen", seen); }
};

void use(kto::Trainer<Model, kto::PackedCollator, Mine, Reference, kto::AdamW>& trainer,
         const std::vector<kto::Example>& rows) {
  train(trainer, rows);
}
