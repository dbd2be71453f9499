// SPDX-License-Identifier: Apache-2.0
// AdamW (arXiv:1711.05101) as one fused kernel a group. Moments have the dtype of their parameters.
#pragma once

#include <vector>

#include "kto/optim/concept.hpp"

namespace kto {

struct AdamW {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;

  struct Moments {
    Tensor first, second;
    Tensor num_steps;  ///< float32 without dimensions

    template <class Archive>
    void visit_state(Archive& archive) {
      archive("first", first);
      archive("second", second);
      archive("num_steps", num_steps);
    }
  };
  std::vector<Moments> moments = {};  ///< one a group, made at the first step

  template <class Archive>
  void visit_state(Archive& archive) {
    archive("moments", moments);
  }

  void step(FlatParameters& parameters, const Update& update) {
    if (moments.empty())
      for (const FlatGroup& group : parameters.groups)
        moments.push_back({at::zeros_like(group.values), at::zeros_like(group.values),
                           at::zeros({}, group.values.options().dtype(at::kFloat))});
    for (std::size_t i = 0; i < moments.size(); ++i) {
      const FlatGroup& group = parameters.groups[i];
      moments[i].num_steps.add_(1);  // the kernel wants the number of this step; 0 would divide by zero
      const auto divisor =
          update.grad_divisor.defined() ? std::optional<Tensor>(update.grad_divisor) : std::optional<Tensor>();
      at::_fused_adamw_({group.values}, {group.grads}, {moments[i].first}, {moments[i].second}, {},
                        {moments[i].num_steps}, update.learning_rate, beta1, beta2, group.decay ? weight_decay : 0.0,
                        epsilon, /*amsgrad=*/false, /*maximize=*/false, divisor);
    }
  }
};

}  // namespace kto
