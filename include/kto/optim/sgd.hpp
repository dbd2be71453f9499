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

  std::vector<Tensor> velocity = {};  ///< one a group, made at the first step

  template <class Archive>
  void visit_state(Archive& archive) {
    archive("velocity", velocity);
  }

  void step(FlatParameters& parameters, const Update& update) {
    const bool first = velocity.empty();
    for (std::size_t i = 0; i < parameters.groups.size(); ++i) {
      FlatGroup& group = parameters.groups[i];
      Tensor change = prepared_gradient(group, update, weight_decay);
      if (momentum != 0) {
        if (first)
          velocity.push_back(change.clone());
        else
          velocity[i].mul_(momentum).add_(change, 1 - dampening);
        change = nesterov ? change.add(velocity[i], momentum) : velocity[i];
      }
      group.values.sub_(change, update.learning_rate);
    }
  }
};

}  // namespace kto
