// SPDX-License-Identifier: Apache-2.0
// AdamW (arXiv:1711.05101) with LibTorch's fused kernel. Moments have the dtype of their parameters.
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
    Tensor num_steps;  ///< float32 scalar: steps in which the parameter had a gradient

    template <class Archive>
    void visit_state(Archive& archive) {
      archive("first", first);
      archive("second", second);
      archive("num_steps", num_steps);
    }
  };
  std::vector<Moments> moments = {};  ///< one per parameter

  static constexpr bool is_elementwise() { return true; }
  template <class Archive>
  void visit_state(Archive& archive) {
    archive("moments", moments);
  }

  void prepare(const FlatParameters& parameters) {
    if (!moments.empty()) return;
    for (const FlatGroup& group : parameters.groups)
      for (const FlatSlice& slice : group.slices) {
        const auto options = group.values.options();
        moments.push_back({at::zeros(slice.sizes, options), at::zeros(slice.sizes, options),
                           at::zeros({}, options.dtype(at::kFloat))});
      }
  }

  void step(FlatParameters& parameters, const Update& update) {
    prepare(parameters);
    const auto divisor = update.grad_divisor.defined() ? std::optional(update.grad_divisor) : std::nullopt;
    std::size_t next = 0;
    for (const FlatGroup& group : parameters.groups) {
      std::vector<Tensor> values, grads, first, second, num_steps;
      for (const FlatSlice& slice : group.slices) {
        const Moments& own = moments[next++];
        if (!slice.parameter.grad().defined()) continue;
        values.push_back(slice.view(group.values));
        grads.push_back(slice.parameter.grad().contiguous());
        first.push_back(own.first);
        second.push_back(own.second);
        num_steps.push_back(own.num_steps);
      }
      if (values.empty()) continue;
      at::_foreach_add_(num_steps, 1);  // the kernel expects the number of this step; 0 would divide by zero
      at::_fused_adamw_(values, grads, first, second, {}, num_steps, update.learning_rate, beta1, beta2,
                        group.decay ? weight_decay : 0.0, epsilon, /*amsgrad=*/false, /*maximize=*/false, divisor);
    }
  }
};

}  // namespace kto
