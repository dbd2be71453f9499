// expects: void observe(const kto::LossInput<Array>&)`, and it would never be called; see kto/loss/concept.hpp
// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

struct Mine : kto::ApoZeroUnpaired {
  double seen = 0;
  template <class Array>
  void observe(const kto::LossInput<Array>&, const kto::LossTerms<Array>&) {
    seen += 1;
  }
};

void use(kto::Trainer<Model, kto::PackedCollator, Mine, Reference, kto::AdamW>& trainer,
         const std::vector<kto::Example>& rows) {
  train(trainer, rows);
}
