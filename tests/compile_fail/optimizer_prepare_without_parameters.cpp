// expects: void prepare(const kto::FlatParameters&)`, and it would never be called; see kto/optim/concept.hpp
// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

struct Mine {
  void step(kto::FlatParameters&, const kto::Update&);
  void prepare();
};

void use(kto::Trainer<Model, kto::PackedCollator, kto::Kto, Reference, Mine>& trainer,
         const std::vector<kto::Example>& rows) {
  train(trainer, rows);
}
