// expects: metrics(const kto::LossInput<Array>&, const kto::LossTerms<Array>&) const`, and it would never be called;
// see kto/loss/concept.hpp SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

struct Mine : kto::ApoZeroUnpaired {
  template <class Array>
  std::vector<std::pair<std::string, double>> metrics(const kto::LossInput<Array>&,
                                                      const kto::LossTerms<Array>&) const {
    return {{"share", 0.5}};
  }
};

void use(kto::Trainer<Model, kto::PackedCollator, Mine, Reference, kto::AdamW>& trainer,
         const std::vector<kto::Example>& rows) {
  train(trainer, rows);
}
