// expects: write `template <class Visit> void visit_models(const Visit&) const` in it
// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

class Mine {
 public:
  explicit Mine(Model model) : model_(model) {}
  kto::ReferenceLogps log_probs(const Model& policy, const kto::Batch& batch) const {
    return kto::LiveReference<Model>{model_}.log_probs(policy, batch);
  }

 private:
  Model model_;
};

void use(kto::Trainer<Model, kto::PackedCollator, kto::Kto, Mine, kto::AdamW>& trainer,
         const std::vector<kto::Example>& rows) {
  train(trainer, rows);
}
