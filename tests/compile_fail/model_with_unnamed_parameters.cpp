// expects: write `kto::NamedTensors named_parameters() const` in your model; see kto/model/concept.hpp
// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

struct Mine {
  std::vector<Tensor> named_parameters() const;
  Tensor logits(const kto::Sequences&) const;
};

struct Reference2 {
  kto::ReferenceLogps log_probs(const Mine&, const kto::Batch&) const;
};

void use(kto::Trainer<Mine, kto::PackedCollator, kto::Kto, Reference2, kto::AdamW>& trainer,
         const std::vector<kto::Example>& rows) {
  train(trainer, rows);
}
