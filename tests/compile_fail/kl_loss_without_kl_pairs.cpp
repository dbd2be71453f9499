// expects: your loss needs KL pairs but your collator makes none
// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

struct Mine {
  static constexpr kto::BatchParts provides{};
  kto::Batch operator()(std::span<const kto::Pick>, bool) const;
};

void use(kto::Trainer<Model, Mine, kto::Kto, Reference, kto::AdamW>& trainer, const std::vector<kto::Example>& rows) {
  train(trainer, rows);
}
