// expects: std::int64_t num_tokens(const kto::Example&) const`, and it would never be called; see
// kto/collate/concept.hpp SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

struct Mine {
  static constexpr kto::BatchParts provides{.kl_pairs = true};
  int num_tokens(const kto::Example&) const;
  kto::Batch operator()(std::span<const kto::Pick>, bool with_kl) const;
};

void use(kto::Trainer<Model, Mine, kto::Kto, Reference, kto::AdamW>& trainer, const std::vector<kto::Example>& rows) {
  train(trainer, rows);
}
