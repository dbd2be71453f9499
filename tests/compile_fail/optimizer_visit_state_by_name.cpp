// expects: your optimizer has another `visit_state` than `template <class Archive> void visit_state(Archive&)`
// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

struct Mine {
  void step(kto::FlatParameters&, const kto::Update&);
  double rate = 0;
  void visit_state(const std::string& part);
};

void use(kto::Trainer<Model, kto::PackedCollator, kto::Kto, Reference, Mine>& trainer,
         const std::vector<kto::Example>& rows) {
  train(trainer, rows);
}
