// SPDX-License-Identifier: Apache-2.0
// Stochastic gradient descent with momentum, as torch.optim.SGD.
#pragma once

#include <vector>

#include "kto/optim/concept.hpp"

namespace kto {

struct Sgd {
  double momentum = 0;
  double dampening = 0;
  bool nesterov = false;
  double weight_decay = 0;

  struct Motion {
    Tensor velocity;  ///< starts as the first gradient
    bool has_begun = false;

    template <class Archive>
    void visit_state(Archive& archive) {
      archive("velocity", velocity);
      archive("has_begun", has_begun);
    }
  };
  std::vector<Motion> motions = {};  ///< one per parameter, if momentum is used

  static constexpr bool is_elementwise() { return true; }
  template <class Archive>
  void visit_state(Archive& archive) {
    archive("motions", motions);
  }

  void prepare(const FlatParameters& parameters) {
    if (momentum == 0 || !motions.empty()) return;
    for (const FlatGroup& group : parameters.groups)
      for (const FlatSlice& slice : group.slices) motions.push_back({at::zeros(slice.sizes, group.values.options())});
  }

  void step(FlatParameters& parameters, const Update& update) {
    prepare(parameters);
    visit_gradients(parameters,
                    [&](std::size_t i, const FlatGroup& group, const FlatSlice& slice, const Tensor& value) {
                      Tensor change = prepared_gradient(group, slice, update, weight_decay);
                      if (momentum != 0) {
                        auto& [velocity, has_begun] = motions[i];
                        velocity.mul_(momentum).add_(change, has_begun ? 1 - dampening : 1.0);
                        has_begun = true;
                        change = nesterov ? change.add(velocity, momentum) : velocity;
                      }
                      value.sub_(change, update.learning_rate);
                    });
  }
};

}  // namespace kto
