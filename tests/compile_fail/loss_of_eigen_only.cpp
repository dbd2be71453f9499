// expects: operator()(const kto::LossInput<Array>&) const` in your loss; see kto/loss/concept.hpp
// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

struct Mine {
  static constexpr kto::BatchParts needs{};
  kto::LossTerms<Eigen::ArrayXd> operator()(const kto::LossInput<Eigen::ArrayXd>& in) const {
    return {in.policy_logp_B, in.policy_logp_B};
  }
};

void use(kto::Trainer<Model, kto::PackedCollator, Mine, Reference, kto::AdamW>& trainer,
         const std::vector<kto::Example>& rows) {
  train(trainer, rows);
}
