// SPDX-License-Identifier: Apache-2.0
// Live reference: a frozen model beside the policy, evaluated on every batch. The default, for full fine-tuning.
#pragma once

#include <utility>

#include "kto/reference/concept.hpp"

namespace kto {

template <ModelPolicy Model>
struct LiveReference {
  Model model;  ///< may have another architecture than the policy, but the same vocabulary
  /// The policy starts equal to this reference: the trainer checks that their first log-probs agree, and an evaluation
  /// before training does not ask it.
  bool starts_as_policy = false;

  template <class Policy>
  ReferenceLogps log_probs(const Policy&, const Batch& batch) const {
    const at::NoGradGuard no_grad;
    const BatchScores scores = score_batch(model, batch, /*with_kl=*/true);
    return {.logp_B = scores.rows.logp_B, .kl_logp_B = scores.kl_logp_B};
  }
  static constexpr bool is_frozen() { return true; }
  template <class Visit>
  void visit_models(const Visit& visit) const {
    visit(model);
  }
};

/// A reference equal to the current `policy`: a deep copy without gradient, made by the model's frozen_copy.
template <ModelPolicy Model>
LiveReference<Model> live_reference(const Model& policy) {
  return {.model = frozen_copy(policy), .starts_as_policy = true};
}

}  // namespace kto
