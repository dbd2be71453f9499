// SPDX-License-Identifier: Apache-2.0
// AdamW (arXiv:1711.05101) whose moments have fewer bits than the parameters. One loop per parameter reads moments,
// gradient and value, and writes moments and value, without temporary tensors. The storage of moments is a policy:
// kto/optim/adamw_bf16.hpp, kto/optim/adamw_8bit.hpp.
//
// In a step a second moment changes by about 1 - beta2, a thousandth of itself. That is less than half the distance
// between two numbers in so few bits, so with rounding to nearest it would never change. Instead it is rounded up or
// down at random, with probabilities that make it right on average (stochastic rounding). The random bits are a hash of
// step, parameter and element, so runs repeat and resume to the last bit.
#pragma once

#include <cmath>
#include <string_view>
#include <vector>

#include "kto/core/vectorized.hpp"
#include "kto/optim/concept.hpp"

namespace kto {

// Shapes: n elements of a parameter.

/// One step of one number, in float32.
struct AdamWStep {
  float kept = 1;               ///< the value's factor after weight decay
  float first_share = 0.1F;     ///< weight of the gradient in the first moment, 1 - beta1
  float second_share = 0.001F;  ///< weight of its square in the second moment, 1 - beta2
  float rate = 0;               ///< learning rate, with the first moment's bias correction
  float root_correction = 1;    ///< factor on the root of the second moment
  float epsilon = 1e-8F;
  float grad_factor = 1;

  /// The new value; updates the moments.
  float operator()(float value, float grad, float& first, float& second) const {
    grad *= grad_factor;
    first += first_share * (grad - first);
    second += second_share * (grad * grad - second);
    return kept * value - rate * first / (detail::vector_sqrt(second) * root_correction + epsilon);
  }
};

template <class Moments>
struct CompactAdamW {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;

  std::vector<Moments> moments = {};  ///< one per parameter
  std::int64_t num_steps = 0;

  static constexpr bool is_elementwise() { return true; }
  template <class Archive>
  void visit_state(Archive& archive) {
    archive("moments", moments);
    archive("num_steps", num_steps);
  }

  /// Throws Error naming a parameter that is not float32 or bfloat16 on the CPU.
  void prepare(const FlatParameters& parameters) {
    if (!moments.empty()) return;
    for (const FlatGroup& group : parameters.groups)
      for (const FlatSlice& slice : group.slices) {
        check(takes_vectorized(group.values) && group.values.scalar_type() != at::kHalf, Moments::name, ": ",
              slice.name, " is ", group.values.scalar_type(), " on ", group.values.device(),
              "; expected float32 or bfloat16 on the CPU: use AdamW");
        moments.push_back(Moments::zeros(slice.numel, slice.num_whole()));
      }
  }

  /// Throws as prepare() does.
  void step(FlatParameters& parameters, const Update& update) {
    prepare(parameters);
    ++num_steps;
    const auto steps = static_cast<double>(num_steps);
    AdamWStep one{.first_share = static_cast<float>(1 - beta1), .second_share = static_cast<float>(1 - beta2)};
    one.rate = static_cast<float>(update.learning_rate / (1 - std::pow(beta1, steps)));
    one.root_correction = static_cast<float>(1 / std::sqrt(1 - std::pow(beta2, steps)));
    one.epsilon = static_cast<float>(epsilon);
    if (update.grad_divisor.defined()) one.grad_factor = 1 / update.grad_divisor.template item<float>();
    visit_gradients(parameters,
                    [&](std::size_t i, const FlatGroup& group, const FlatSlice& slice, const Tensor& value) {
                      one.kept = static_cast<float>(group.decay ? 1 - update.learning_rate * weight_decay : 1.0);
                      moments[i].step(one, value.view(-1), slice.parameter.grad().contiguous().view(-1),
                                      salt(slice.name) + static_cast<std::uint32_t>(slice.offset));
                    });
  }

 private:
  /// The seed of a parameter's random bits in this step.
  std::uint32_t salt(std::string_view name) const {
    std::uint32_t hash = detail::hashed_bits(static_cast<std::uint32_t>(num_steps));
    for (const char c : name) hash = detail::hashed_bits(hash + static_cast<unsigned char>(c));
    return hash;
  }
};

}  // namespace kto
