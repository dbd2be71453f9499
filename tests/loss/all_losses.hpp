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

/// Each function and operator that kto/loss/array.hpp offers, with numbers and in.baseline among arrays: compiling it
/// for both kinds of array is half of the test.
struct EveryFunction {
  static constexpr kto::BatchParts needs{};
  double beta = 0.3;

  template <class Array>
  kto::LossTerms<Array> operator()(const kto::LossInput<Array>& in) const {
    using namespace kto;
    const Array x = in.policy_logp_B - in.reference_logp_B;
    const Array bent = relu(x + 1) + clamp(2 * x, -1, beta) + clamp(x, -0.25, 3) + abs(x - beta) + softplus(-x) / 2;
    const Array chosen = where(x > 0, bent, 0.5) + where(0 < x, 1, x) + where(in.sign_B == 1, x, -x) +
                         where(x >= in.baseline, x, in.baseline) + where(x <= bent, x, where(x != 2, 2, bent));
    const Array smooth =
        log1p(exp(-abs(x))) + log(1 + x.square()) - log_sigmoid(x - in.baseline) + 1 / (2 + sigmoid(x));
    const Array members = x.exp() + (x.abs() + 1).sqrt() + x.tanh() + (x.square() + 1).pow(0.3) - in.length_B;
    return {.loss_B = chosen + smooth - members + in.sign_B * (x - x.mean()) + x.sum(), .reward_B = beta * x};
  }
};

/// Visits functions of one array, with arguments from which to where each has slopes that can be measured.
template <class Visit>
void for_each_array_function(const Visit& visit) {
  using namespace kto;
  visit("sigmoid", -30, 30, []<class Array>(const Array& x) -> Array { return 1 - sigmoid(x); });
  visit("log_sigmoid", -1e5, 1e5, []<class Array>(const Array& x) -> Array { return log_sigmoid(2 - x); });
  visit("softplus", -1e5, 1e5, []<class Array>(const Array& x) -> Array { return softplus(x); });
  visit("relu", -1e5, 1e5, []<class Array>(const Array& x) -> Array { return relu(x + 1); });
  visit("clamp", -1e5, 1e5, []<class Array>(const Array& x) -> Array { return clamp(x, -2, 2.25); });
  visit("clamp to nothing", -1e5, 1e5, []<class Array>(const Array& x) -> Array { return clamp(x, 3, 1); });
  visit("where", -1e5, 1e5, []<class Array>(const Array& x) -> Array { return where(x > 0, x / 2, 1 - x); });
  visit("where, a number", -1e5, 1e5, []<class Array>(const Array& x) -> Array { return where(x < 0.125, -3, x); });
  visit("where, else a number", -1e5, 1e5, []<class Array>(const Array& x) -> Array { return where(x < 0.125, x, 7); });
  visit("exp", -40, 9, []<class Array>(const Array& x) -> Array { return exp(x); });
  visit("log1p", -40, 40, []<class Array>(const Array& x) -> Array { return log1p(x * x); });
  visit("log", -40, 40, []<class Array>(const Array& x) -> Array { return log(x.square() + 1e-3); });
  visit("abs", -1e5, 1e5, []<class Array>(const Array& x) -> Array { return abs(0.15 - x); });
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
