// SPDX-License-Identifier: Apache-2.0
// Adafactor (arXiv:1804.04235) as transformers' Trainer configures it: with the schedule's learning rate instead of its
// own (scale_parameter and relative_step off). A matrix's squared gradients are stored as one row and one column.
#pragma once

#include <cmath>
#include <vector>

#include "kto/optim/concept.hpp"

namespace kto {

// Shapes: a parameter is [R, C], or [n].

struct Adafactor {
  double epsilon = 1e-30;     ///< added to squares
  double clip_threshold = 1;  ///< updates with a larger RMS are scaled down to it
  double decay_rate = -0.8;   ///< step^decay_rate is the weight of the newest squares
  double weight_decay = 0;

  struct Squares {
    Tensor row_R, column_C;  ///< of a matrix; float32 or wider
    Tensor all_n;            ///< of any other shape

    template <class Archive>
    void visit_state(Archive& archive) {
      archive("row_R", row_R);
      archive("column_C", column_C);
      archive("all_n", all_n);
    }
  };
  std::vector<Squares> squares = {};  ///< one per parameter
  std::int64_t num_steps = 0;

  template <class Archive>
  void visit_state(Archive& archive) {
    archive("squares", squares);
    archive("num_steps", num_steps);
  }

  void prepare(const FlatParameters& parameters) {
    if (!squares.empty()) return;
    for (const FlatGroup& group : parameters.groups)
      for (const FlatSlice& slice : group.slices) squares.push_back(empty_squares(slice.view(group.values)));
  }

  void step(FlatParameters& parameters, const Update& update) {
    prepare(parameters);
    const double kept = 1 - std::pow(static_cast<double>(++num_steps), decay_rate);
    visit_gradients(parameters,
                    [&](std::size_t i, const FlatGroup& group, const FlatSlice& slice, const Tensor& value) {
                      const Tensor grad = prepared_gradient(group, slice, update, 0);
                      const Tensor change = scaled(grad, squares[i], kept).mul_(update.learning_rate);
                      if (group.decay && weight_decay != 0) value.mul_(1 - weight_decay * update.learning_rate);
                      value.sub_(change);
                    });
  }

 private:
  static at::ScalarType wide(at::ScalarType type) { return at::isReducedFloatingType(type) ? at::kFloat : type; }

  static Squares empty_squares(const Tensor& value) {
    const auto options = value.options().dtype(wide(value.scalar_type()));
    const auto sizes = value.sizes();
    if (value.dim() < 2) return {{}, {}, at::zeros(sizes, options)};
    std::vector<std::int64_t> column(sizes.begin(), sizes.end() - 2);
    column.push_back(sizes.back());
    return {at::zeros(sizes.slice(0, sizes.size() - 1), options), at::zeros(column, options), {}};
  }

  Tensor scaled(const Tensor& stored_grad, Squares& square, double kept) const {
    const Tensor grad = stored_grad.to(wide(stored_grad.scalar_type()));
    const Tensor now = grad.square().add_(epsilon);
    Tensor change;
    if (square.all_n.defined()) {
      change = square.all_n.mul_(kept).add_(now, 1 - kept).rsqrt().mul_(grad);
    } else {
      square.row_R.mul_(kept).add_(now.mean(-1), 1 - kept);
      square.column_C.mul_(kept).add_(now.mean(-2), 1 - kept);
      const Tensor row = square.row_R.div(square.row_R.mean(-1, /*keepdim=*/true)).rsqrt_().unsqueeze(-1);
      change = row.mul(square.column_C.unsqueeze(-2).rsqrt()).mul_(grad);
    }
    const Tensor root_mean_square = change.norm() / std::sqrt(static_cast<double>(change.numel()));
    return change.div_((root_mean_square / clip_threshold).clamp_min_(1));
  }
};

}  // namespace kto
