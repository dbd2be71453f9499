// expects: operator()(std::span<const kto::Pick>, bool with_kl) const` in your collator; see kto/collate/concept.hpp
// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

struct Mine {
  static constexpr kto::BatchParts provides{.kl_pairs = true};
  kto::Sequences operator()(std::span<const kto::Pick>, bool) const;
};

void use(kto::Trainer<Model, Mine, kto::Kto, Reference, kto::AdamW>& trainer, const std::vector<kto::Example>& rows) {
  train(trainer, rows);
}
