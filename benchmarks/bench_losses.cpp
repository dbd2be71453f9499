// SPDX-License-Identifier: Apache-2.0
// Each loss on Eigen arrays, in double and float, against a hand-written loop over the rows. Needs no LibTorch.
#include "bench_losses.hpp"

#include <cmath>
#include <cstdio>

namespace {

template <class T>
struct Row {
  T log_ratio, sign, length, baseline;
};

template <class T>
T sigmoid(T x) {
  return 1 / (1 + std::exp(-x));
}
template <class T>
T log_sigmoid(T x) {
  return std::min<T>(x, 0) - std::log1p(std::exp(-std::abs(x)));
}

// The formulas for one row or one pair; beta is the loss's, in the type of the array.
template <class T>
T by_hand(const kto::Kto&, T beta, Row<T> row) {
  return 1 - sigmoid(beta * row.sign * (row.log_ratio - row.baseline));
}
template <class T>
T by_hand(const kto::ApoZeroUnpaired&, T beta, Row<T> row) {
  return 1 - sigmoid(row.sign * beta * row.log_ratio);
}
template <class T>
T by_hand(const kto::BcoUnpaired& loss, T beta, Row<T> row) {
  return -log_sigmoid(row.sign * (beta * row.log_ratio - static_cast<T>(loss.delta)));
}
template <class T>
T by_hand(const kto::ApoZeroPaired&, T beta, Row<T> chosen, Row<T> rejected) {
  return 1 - sigmoid(beta * chosen.log_ratio) + sigmoid(beta * rejected.log_ratio);
}
template <class T>
T by_hand(const kto::ApoDown&, T beta, Row<T> chosen, Row<T> rejected) {
  return sigmoid(beta * chosen.log_ratio) + 1 - sigmoid(beta * (chosen.log_ratio - rejected.log_ratio));
}
template <class T>
T by_hand(const kto::Dpo&, T beta, Row<T> chosen, Row<T> rejected) {
  return -log_sigmoid(beta * (chosen.log_ratio - rejected.log_ratio));
}
template <class T>
T by_hand(const kto::Ipo&, T beta, Row<T> chosen, Row<T> rejected) {
  const T distance = chosen.log_ratio / chosen.length - rejected.log_ratio / rejected.length - 1 / (2 * beta);
  return distance * distance;
}

template <class Array, class Loss>
kto::LossTerms<Array> loop(const Loss& loss, const kto::LossInput<Array>& in) {
  using T = typename Array::Scalar;
  const auto beta = static_cast<T>(loss.beta);
  const Eigen::Index rows = in.sign_B.size(), half = rows / 2;
  const auto row = [&](Eigen::Index i) {
    return Row<T>{in.policy_logp_B[i] - in.reference_logp_B[i], in.sign_B[i], in.length_B[i], in.baseline};
  };
  kto::LossTerms<Array> out{.loss_B = Array(Loss::needs.chosen_rejected ? half : rows), .reward_B = Array(rows)};
  for (Eigen::Index i = 0; i < rows; ++i) out.reward_B[i] = beta * row(i).log_ratio;
  for (Eigen::Index i = 0; i < out.loss_B.size(); ++i)
    if constexpr (Loss::needs.chosen_rejected)
      out.loss_B[i] = by_hand<T>(loss, beta, row(i), row(half + i));
    else
      out.loss_B[i] = by_hand<T>(loss, beta, row(i));
  return out;
}

template <class Array>
kto::LossInput<Array> input_of(Eigen::Index rows) {
  using T = typename Array::Scalar;
  const auto in = bench::random_input(rows);
  return {in.policy_logp_B.cast<T>(), in.reference_logp_B.cast<T>(), in.sign_B.cast<T>(), in.length_B.cast<T>(),
          static_cast<T>(in.baseline)};
}

template <class Array>
void measure_all(const std::string& array) {
  bench::for_each_loss([&](const std::string& name, const auto& loss) {
    const auto in = input_of<Array>(64);
    const auto terms = loss(in), twin = loop(loss, in);
    if (!terms.loss_B.isApprox(twin.loss_B, 1e-5f) || !terms.reward_B.isApprox(twin.reward_B, 1e-5f))
      throw std::logic_error(name + " and the hand-written loop differ on " + array);
    const std::string stem = name + "/" + array + "/forward/";
    bench::measure(stem + "kto",
                   [loss](Eigen::Index rows) { return [loss, in = input_of<Array>(rows)] { return loss(in); }; });
    bench::measure(stem + "by_hand",
                   [loss](Eigen::Index rows) { return [loss, in = input_of<Array>(rows)] { return loop(loss, in); }; });
  });
}

}  // namespace

int main(int argc, char** argv) try {
  measure_all<Eigen::ArrayXd>("ArrayXd");
  measure_all<Eigen::ArrayXf>("ArrayXf");
  return bench::run_all(argc, argv);
} catch (const std::exception& error) {
  std::fprintf(stderr, "bench_losses: %s\n", error.what());
  return 1;
}
