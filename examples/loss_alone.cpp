// SPDX-License-Identifier: Apache-2.0
// A loss of your own, tested and timed without a model and without LibTorch: this file compiles in a few seconds.
// Prints that the loss is sound, what check_loss says of the same loss with its sign forgotten, and the nanoseconds of a
// batch of 64 rows.
#include <benchmark/benchmark.h>

#include <cstdio>

#include "kto/loss/check.hpp"

// [loss]
/// A hinge whose slope grows with the distance to the aim: max(0, aim - reward)^2 of good rows.
struct SquaredHinge {
  static constexpr kto::BatchParts needs{};  // .kl_pairs = true gives in.baseline
  double beta = 0.1;
  double aim = 1;

  template <class Array>
  kto::LossTerms<Array> operator()(const kto::LossInput<Array>& in) const {
    using kto::relu;
    const Array reward_B = beta * (in.policy_logp_B - in.reference_logp_B);
    const Array distance_B = relu(aim - in.sign_B * reward_B);
    return {.loss_B = distance_B.square(), .reward_B = reward_B};
  }
};
// [loss]

struct SignForgotten {
  static constexpr kto::BatchParts needs{};

  template <class Array>
  kto::LossTerms<Array> operator()(const kto::LossInput<Array>& in) const {
    const Array reward_B = 0.1 * (in.policy_logp_B - in.reference_logp_B);
    return {.loss_B = (1 - reward_B).square(), .reward_B = reward_B};
  }
};

// [benchmark]
void of_64_rows(benchmark::State& state) {
  const Eigen::ArrayXd logp_B = Eigen::ArrayXd::LinSpaced(64, -90, -10);
  Eigen::ArrayXd sign_B = Eigen::ArrayXd::Ones(64);
  sign_B.tail(32) = -1;
  const kto::LossInput<Eigen::ArrayXd> in{.policy_logp_B = logp_B,
                                          .reference_logp_B = logp_B.reverse(),
                                          .sign_B = sign_B,
                                          .length_B = Eigen::ArrayXd::Constant(64, 20),
                                          .baseline = 0};
  for (auto _ : state) benchmark::DoNotOptimize(SquaredHinge{}(in));
}
BENCHMARK(of_64_rows);
// [benchmark]

int main(int argc, char** argv) try {
  // [check]
  kto::check_loss(SquaredHinge{});  // throws kto::Error; in Catch2: CHECK_NOTHROW(kto::check_loss(SquaredHinge{}));
  // [check]
  std::printf("SquaredHinge is sound\n");
  try {
    kto::check_loss(SignForgotten{});
  } catch (const kto::Error& error) {
    std::printf("%s\n", error.what());
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
} catch (const std::exception& error) {
  std::fprintf(stderr, "loss_alone: %s\n", error.what());
  return 1;
}
