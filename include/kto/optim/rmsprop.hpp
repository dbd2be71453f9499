// SPDX-License-Identifier: Apache-2.0
// RMSprop, as torch.optim.RMSprop: gradients divided by the root of a moving average of their squares.
#pragma once

#include <vector>

#include "kto/optim/concept.hpp"

namespace kto {

struct RmsProp {
  double alpha = 0.99;  ///< decay of the average
  double epsilon = 1e-8;
  double momentum = 0;
  bool centered = false;  ///< use the variance: squares around the gradient's average
  double weight_decay = 0;

  struct Averages {
    Tensor square, gradient, velocity;  ///< the last two only if used

    template <class Archive>
    void visit_state(Archive& archive) {
      archive("square", square);
      archive("gradient", gradient);
      archive("velocity", velocity);
    }
  };
  std::vector<Averages> averages = {};  ///< one per parameter

  static constexpr bool is_elementwise() { return true; }
  template <class Archive>
  void visit_state(Archive& archive) {
    archive("averages", averages);
  }

  void prepare(const FlatParameters& parameters) {
    if (!averages.empty()) return;
    for (const FlatGroup& group : parameters.groups)
      for (const FlatSlice& slice : group.slices) {
        const auto zeros = [&](bool wanted) {
          return wanted ? at::zeros(slice.sizes, group.values.options()) : Tensor();
        };
        averages.push_back({zeros(true), zeros(centered), zeros(momentum != 0)});
      }
  }

  void step(FlatParameters& parameters, const Update& update) {
    prepare(parameters);
    visit_gradients(parameters,
                    [&](std::size_t i, const FlatGroup& group, const FlatSlice& slice, const Tensor& value) {
                      Averages& average = averages[i];
                      const Tensor grad = prepared_gradient(group, slice, update, weight_decay);
                      average.square.mul_(alpha).addcmul_(grad, grad, 1 - alpha);
                      Tensor root;
                      if (centered) {
                        average.gradient.lerp_(grad, 1 - alpha);
                        root = average.square.addcmul(average.gradient, average.gradient, -1).sqrt_().add_(epsilon);
                      } else {
                        root = average.square.sqrt().add_(epsilon);
                      }
                      if (momentum != 0) {
                        average.velocity.mul_(momentum).addcdiv_(grad, root);
                        value.sub_(average.velocity, update.learning_rate);
                      } else {
                        value.addcdiv_(grad, root, -update.learning_rate);
                      }
                    });
  }
};

}  // namespace kto
