// expects: your model needs padded rows: use `kto::PaddedCollator`
// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

using Mine = kto::FunctionModel<Tensor (*)(const kto::NamedTensors&, const Tensor&, const Tensor&)>;

struct Reference2 {
  kto::ReferenceLogps log_probs(const Mine&, const kto::Batch&) const;
};

void use(kto::Trainer<Mine, kto::PackedCollator, kto::Kto, Reference2, kto::AdamW>& trainer,
         const std::vector<kto::Example>& rows) {
  train(trainer, rows);
}
