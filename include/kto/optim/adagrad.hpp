// SPDX-License-Identifier: Apache-2.0
// Adagrad, as torch.optim.Adagrad: gradients over the root of the sum of all their squares.
#pragma once

#include <vector>

#include "kto/optim/concept.hpp"

namespace kto {

struct Adagrad {
  double lr_decay = 0;
  double epsilon = 1e-10;
  double weight_decay = 0;

  std::vector<Tensor> square_sums = {};  ///< one a group, made at the first step
  std::int64_t num_steps = 0;

  template <class Archive>
  void visit_state(Archive& archive) {
    archive("square_sums", square_sums);
    archive("num_steps", num_steps);
  }

  void step(FlatParameters& parameters, const Update& update) {
    if (square_sums.empty())
      for (const FlatGroup& group : parameters.groups) square_sums.push_back(at::zeros_like(group.values));
    const double rate = update.learning_rate / (1 + static_cast<double>(num_steps++) * lr_decay);
    for (std::size_t i = 0; i < square_sums.size(); ++i) {
      FlatGroup& group = parameters.groups[i];
      const Tensor grad = prepared_gradient(group, update, weight_decay);
      square_sums[i].addcmul_(grad, grad, 1);
      group.values.addcdiv_(grad, square_sums[i].sqrt().add_(epsilon), -rate);
    }
  }
};

}  // namespace kto
