// expects: write `static constexpr kto::BatchParts provides{...};` in your collator; see kto/collate/concept.hpp
// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

struct Mine {
  kto::Batch operator()(std::span<const kto::Pick>, bool) const;
};

void use(kto::Trainer<Model, Mine, kto::Kto, Reference, kto::AdamW>& trainer, const std::vector<kto::Example>& rows) {
  train(trainer, rows);
}
