// SPDX-License-Identifier: Apache-2.0
// Losses made of losses: policies that wrap a policy. Prints one line per loss: the reward margin on held-out rows
// rises with each, and the SFT term also raises the log-prob of good rows.
#include "kto/loss/kto.hpp"
#include "toy.hpp"

// [wrapped]
/// Adds weight * (mean negative log-prob of the completion's tokens) on desirable rows.
template <class Loss>
struct WithSft {
  static constexpr kto::BatchParts needs = Loss::needs;
  Loss loss = {};
  double weight = 0.1;

  template <class Array>
  kto::LossTerms<Array> operator()(const kto::LossInput<Array>& in) const {
    kto::LossTerms<Array> terms = loss(in);
    const Array desirable_B = (in.sign_B + 1) / 2;
    terms.loss_B = terms.loss_B - weight * desirable_B * in.policy_logp_B / in.length_B;
    return terms;
  }
};
// [wrapped]

/// Passes log-probs per token instead of per completion to `loss`.
template <class Loss>
struct LengthNormalised {
  static constexpr kto::BatchParts needs = Loss::needs;
  Loss loss = {};

  template <class Array>
  kto::LossTerms<Array> operator()(const kto::LossInput<Array>& in) const {
    kto::LossInput<Array> mean = in;
    mean.policy_logp_B = in.policy_logp_B / in.length_B;
    mean.reference_logp_B = in.reference_logp_B / in.length_B;
    return loss(mean);
  }
};

int main() try {
  const kto::Kto kto_loss{.beta = 0.3};
  toy::train_and_report("KTO", kto_loss);
  toy::train_and_report("KTO + SFT", WithSft<kto::Kto>{.loss = kto_loss, .weight = 0.5});
  toy::train_and_report("length-normalised KTO", LengthNormalised<kto::Kto>{.loss = {.beta = 1}});
} catch (const std::exception& error) {
  return kto::report_error("composed_loss", error);
}
