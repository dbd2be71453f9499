// SPDX-License-Identifier: Apache-2.0
// Every loss by name, for tests that walk them.
#pragma once

#include "kto/loss/apo_down.hpp"
#include "kto/loss/apo_zero.hpp"
#include "kto/loss/bco.hpp"
#include "kto/loss/dpo.hpp"
#include "kto/loss/ipo.hpp"
#include "kto/loss/kto.hpp"

template <class Visit>
void for_each_loss(const Visit& visit) {
  visit("kto", kto::Kto{.beta = 0.3});
  visit("apo_zero_unpaired", kto::ApoZeroUnpaired{.beta = 0.3});
  visit("apo_zero_paired", kto::ApoZeroPaired{.beta = 0.3});
  visit("apo_down", kto::ApoDown{.beta = 0.3});
  visit("dpo", kto::Dpo{.beta = 0.3});
  visit("ipo", kto::Ipo{.beta = 0.3});
  visit("bco_unpaired", kto::BcoUnpaired{.beta = 0.3, .delta = 0.7, .num_rows = 3});
}

/// Four rows: of pairs (first half chosen), or of both labels; log-ratios spread around 0.
inline kto::LossInput<Eigen::ArrayXd> some_input(bool paired) {
  using Eigen::ArrayXd;
  ArrayXd policy(4), reference(4), sign(4), length(4);
  policy << -20.5, -31.25, -12, -44;
  reference << -21, -30, -12.75, -40.5;
  length << 7, 11, 5, 13;
  if (paired)
    sign << 1, 1, -1, -1;
  else
    sign << 1, -1, 1, -1;
  return {.policy_logp_B = policy,
          .reference_logp_B = reference,
          .sign_B = sign,
          .length_B = length,
          .baseline = paired ? 0 : 0.4};
}
