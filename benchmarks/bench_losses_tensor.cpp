// SPDX-License-Identifier: Apache-2.0
// Each loss on LibTorch tensors in float64, as the trainer calls it, against the same formula in plain at:: operators.
// "forward+backward" ends with the gradient of the mean loss with respect to the policy's log-probs. Uses one thread:
// for at::log_sigmoid LibTorch would wake all of them, even for four rows, and wait for busy cores.
#include <ATen/ops/allclose.h>

#include <cstdio>

#include "bench_losses.hpp"
#include "kto/core/torch.hpp"

namespace {

using at::Tensor;
using Input = kto::LossInput<Tensor>;
using Terms = kto::LossTerms<Tensor>;

Tensor log_ratio(const Input& in) { return in.policy_logp_B - in.reference_logp_B; }

Terms by_hand(const kto::Kto& loss, const Input& in) {
  const Tensor ratio_B = log_ratio(in);
  return {1 - at::sigmoid(loss.beta * in.sign_B * (ratio_B - in.baseline)), loss.beta * ratio_B};
}
Terms by_hand(const kto::ApoZeroUnpaired& loss, const Input& in) {
  const Tensor reward_B = loss.beta * log_ratio(in);
  return {1 - at::sigmoid(in.sign_B * reward_B), reward_B};
}
Terms by_hand(const kto::BcoUnpaired& loss, const Input& in) {
  const Tensor reward_B = loss.beta * log_ratio(in);
  return {-at::log_sigmoid(in.sign_B * (reward_B - loss.delta)), reward_B};
}
Terms by_hand(const kto::ApoZeroPaired& loss, const Input& in) {
  const Tensor reward_B = loss.beta * log_ratio(in);
  const auto half = reward_B.size(0) / 2;
  return {1 - at::sigmoid(reward_B.narrow(0, 0, half)) + at::sigmoid(reward_B.narrow(0, half, half)), reward_B};
}
Terms by_hand(const kto::ApoDown& loss, const Input& in) {
  const Tensor reward_B = loss.beta * log_ratio(in);
  const auto half = reward_B.size(0) / 2;
  const Tensor chosen = reward_B.narrow(0, 0, half), rejected = reward_B.narrow(0, half, half);
  return {at::sigmoid(chosen) + 1 - at::sigmoid(chosen - rejected), reward_B};
}
Terms by_hand(const kto::Dpo& loss, const Input& in) {
  const Tensor reward_B = loss.beta * log_ratio(in);
  const auto half = reward_B.size(0) / 2;
  return {-at::log_sigmoid(reward_B.narrow(0, 0, half) - reward_B.narrow(0, half, half)), reward_B};
}
Terms by_hand(const kto::Ipo& loss, const Input& in) {
  const Tensor ratio_B = log_ratio(in), mean_B = ratio_B / in.length_B;
  const auto half = ratio_B.size(0) / 2;
  const Tensor distance = mean_B.narrow(0, 0, half) - mean_B.narrow(0, half, half) - 1 / (2 * loss.beta);
  return {distance * distance, loss.beta * ratio_B};
}

Input input_of(std::int64_t rows) {
  const auto in = bench::random_input(rows);
  const auto tensor = [](const Eigen::ArrayXd& values) {
    return at::tensor(at::ArrayRef<double>(values.data(), static_cast<std::size_t>(values.size())), at::kDouble);
  };
  return {tensor(in.policy_logp_B).requires_grad_(true), tensor(in.reference_logp_B), tensor(in.sign_B),
          tensor(in.length_B), at::scalar_tensor(in.baseline, at::kDouble)};
}

/// Measures `formula`, a function from Input to Terms.
template <class Formula>
void measure_passes(const std::string& name, const std::string& side, const Formula& formula) {
  bench::measure(name + "/tensor/forward/" + side, [formula](std::int64_t rows) {
    return [formula, in = input_of(rows)] {
      const at::NoGradGuard no_grad;
      return formula(in);
    };
  });
  bench::measure(name + "/tensor/forward+backward/" + side, [formula](std::int64_t rows) {
    return [formula, in = input_of(rows)] {
      return torch::autograd::grad({formula(in).loss_B.mean()}, {in.policy_logp_B});
    };
  });
}

}  // namespace

int main(int argc, char** argv) try {
  at::set_num_threads(1);
  bench::for_each_loss([](const std::string& name, const auto& loss) {
    const Input in = input_of(64);
    const Terms terms = loss(in), twin = by_hand(loss, in);
    if (!at::allclose(terms.loss_B, twin.loss_B) || !at::allclose(terms.reward_B, twin.reward_B))
      throw std::logic_error(name + " and the hand-written formula differ");
    measure_passes(name, "kto", loss);
    measure_passes(name, "by_hand", [loss](const Input& input) { return by_hand(loss, input); });
  });
  return bench::run_all(argc, argv);
} catch (const std::exception& error) {
  std::fprintf(stderr, "bench_losses_tensor: %s\n", error.what());
  return 1;
}
