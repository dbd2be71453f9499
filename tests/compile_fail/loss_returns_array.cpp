// expects: operator()(const kto::LossInput<Array>&) const` in your loss; see kto/loss/concept.hpp
// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

struct Mine {
  static constexpr kto::BatchParts needs{};
  template <class Array>
  Array operator()(const kto::LossInput<Array>& in) const {
    return in.policy_logp_B;
  }
};

void use(kto::Trainer<Model, kto::PackedCollator, Mine, Reference, kto::AdamW>& trainer,
         const std::vector<kto::Example>& rows) {
  train(trainer, rows);
}
