// SPDX-License-Identifier: Apache-2.0
// Shared by the two benchmarks of losses: the losses, their input, and the measurement of a loss against the same
// formula written by hand. A benchmark is named Loss/array/pass/side/rows; side is kto or by_hand.
#pragma once

#include <benchmark/benchmark.h>

#include <string>

#include "kto/loss/apo_down.hpp"
#include "kto/loss/apo_zero.hpp"
#include "kto/loss/bco.hpp"
#include "kto/loss/dpo.hpp"
#include "kto/loss/ipo.hpp"
#include "kto/loss/kto.hpp"

namespace bench {

/// Calls visit(name, loss) for each loss of include/kto/loss.
template <class Visit>
void for_each_loss(const Visit& visit) {
  visit("Kto", kto::Kto{});
  visit("ApoZeroUnpaired", kto::ApoZeroUnpaired{});
  visit("ApoZeroPaired", kto::ApoZeroPaired{});
  visit("ApoDown", kto::ApoDown{});
  visit("Dpo", kto::Dpo{});
  visit("Ipo", kto::Ipo{});
  visit("BcoUnpaired", kto::BcoUnpaired{.delta = 0.7, .num_rows = 8});
}

/// Log-probs typical of completions with tens of tokens. The first half is chosen, as losses of pairs expect.
inline kto::LossInput<Eigen::ArrayXd> random_input(Eigen::Index rows) {
  const auto uniform = [&] { return Eigen::ArrayXd(Eigen::ArrayXd::Random(rows)); };  // of [-1, 1]
  kto::LossInput<Eigen::ArrayXd> in{.policy_logp_B = -60 + 40 * uniform(),
                                    .reference_logp_B = {},
                                    .sign_B = Eigen::ArrayXd::Constant(rows, -1),
                                    .length_B = (32 + 24 * uniform()).round(),
                                    .baseline = 0.4};
  in.reference_logp_B = in.policy_logp_B + 10 * uniform();
  in.sign_B.head(rows / 2).setOnes();
  return in;
}

/// Registers a benchmark. make(rows) returns the function to call in each iteration; it may throw.
template <class Make>
void measure(const std::string& name, const Make& make) {
  const auto run = [make](benchmark::State& state) {
    const auto step = make(state.range(0));
    for (auto _ : state) benchmark::DoNotOptimize(step());
    state.SetItemsProcessed(state.iterations() * state.range(0));
  };
  benchmark::RegisterBenchmark(name.c_str(), run)->Arg(4)->Arg(64)->Arg(512)->Arg(4096);
}

inline int run_all(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace bench
