// expects: write `void step(kto::FlatParameters&, const kto::Update&)` in your optimizer; see kto/optim/concept.hpp
// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

struct Mine {
  void update(kto::FlatParameters&, double learning_rate);
};

void use(kto::Trainer<Model, kto::PackedCollator, kto::Kto, Reference, Mine>& trainer,
         const std::vector<kto::Example>& rows) {
  train(trainer, rows);
}
