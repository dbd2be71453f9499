// SPDX-License-Identifier: Apache-2.0
// Adagrad, as torch.optim.Adagrad: gradients divided by the root of the sum of all their squares.
#pragma once

#include <vector>

#include "kto/optim/concept.hpp"

namespace kto {

struct Adagrad {
  double lr_decay = 0;
  double epsilon = 1e-10;
  double weight_decay = 0;

  std::vector<Tensor> square_sums = {};  ///< one per parameter
  std::int64_t num_steps = 0;

  static constexpr bool is_elementwise() { return true; }
  template <class Archive>
  void visit_state(Archive& archive) {
    archive("square_sums", square_sums);
    archive("num_steps", num_steps);
  }

  void prepare(const FlatParameters& parameters) {
    if (!square_sums.empty()) return;
    for (const FlatGroup& group : parameters.groups)
      for (const FlatSlice& slice : group.slices) square_sums.push_back(at::zeros(slice.sizes, group.values.options()));
  }

  void step(FlatParameters& parameters, const Update& update) {
    prepare(parameters);
    const double rate = update.learning_rate / (1 + static_cast<double>(num_steps++) * lr_decay);
    visit_gradients(parameters,
                    [&](std::size_t i, const FlatGroup& group, const FlatSlice& slice, const Tensor& value) {
                      const Tensor grad = prepared_gradient(group, slice, update, weight_decay);
                      square_sums[i].addcmul_(grad, grad, 1);
                      value.addcdiv_(grad, square_sums[i].sqrt().add_(epsilon), -rate);
                    });
  }
};

}  // namespace kto
