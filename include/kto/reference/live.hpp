// SPDX-License-Identifier: Apache-2.0
// Live reference: a frozen model beside the policy, asked at every batch. Use it for full fine-tuning; the default.
#pragma once

#include <utility>

#include "kto/reference/concept.hpp"

namespace kto {

template <ModelPolicy Model>
struct LiveReference {
  Model model;  ///< may differ from the policy's architecture, never from its vocabulary
  /// The policy starts as this reference: the trainer checks that their first log-probs are the same.
  bool starts_as_policy = false;

  template <class Policy>
  ReferenceLogps log_probs(const Policy&, const Batch& batch) const {
    const at::NoGradGuard no_grad;
    const BatchScores scores = score_batch(model, batch, /*with_kl=*/true);
    return {.logp_B = scores.rows.logp_B, .kl_logp_B = scores.kl_logp_B};
  }
  template <class Visit>
  void visit_models(const Visit& visit) const {
    visit(model);
  }
};

/// A reference that is `policy` as it is now: a deep copy without gradient, made by the model's own frozen_copy.
template <ModelPolicy Model>
LiveReference<Model> live_reference(const Model& policy) {
  return {.model = frozen_copy(policy), .starts_as_policy = true};
}

}  // namespace kto
