// SPDX-License-Identifier: Apache-2.0
// From gradients to updates, in one of two ways: the gradients of all parameters are held until the backward passes are
// over; or each parameter is updated in the backward pass, as soon as its gradient is whole, whose memory then serves
// the next one (as LOMO, arXiv:2306.09782, fuses the two).
#pragma once

#include <cmath>
#include <deque>
#include <memory>
#include <string>
#include <utility>

#include "kto/optim/concept.hpp"

namespace kto {

/// The trained parameters of a model and the optimizer that updates them. `optimizer` must outlive it.
template <class Optimizer>
class Updates {
 public:
  /// Moves the model's parameters; see flatten_parameters. With `in_backward` each parameter has a copy of `optimizer`
  /// to itself, and an update is one backward pass.
  template <HasParameters Model>
  Updates(const Model& model, Optimizer& optimizer, bool in_backward)
      : optimizer_(optimizer), parameters_(flatten_parameters(model)) {
    if (!in_backward) {
      prepare(optimizer_, parameters_);
      return;
    }
    for (FlatGroup& group : parameters_.groups)
      for (FlatSlice& slice : group.slices) add_part(group, slice);
  }
  Updates(const Updates&) = delete;
  Updates& operator=(const Updates&) = delete;
  ~Updates() {
    for (Part& part : parts_) part.gradient->del_post_hook(part.hook);
    parameters_.zero_grad();
  }

  bool in_backward() const { return !parts_.empty(); }

  /// To be called before the backward passes of an update.
  void begin(double learning_rate) {
    learning_rate_ = learning_rate;
    squares_.reset();
    for (Part& part : parts_) part.is_done = false;
  }

  /// Euclidean norm of all gradients of the update, a float64 tensor without dimensions; 0 before its backward pass.
  Tensor grad_norm() const {
    if (!in_backward()) return parameters_.grad_norm();
    return squares_.defined() ? squares_.sqrt() : at::zeros({}, at::kDouble);
  }

  /// Updates all parameters that have a gradient, unless the backward pass did.
  void finish(const Update& update) {
    if (!in_backward()) optimizer_.step(parameters_, update);
  }

  /// Forgets the gradients, after an update or in place of one: the next step's activations take their memory.
  void end() { parameters_.zero_grad(); }

  template <class Archive>
  void visit_state(Archive& archive) {
    if (!in_backward()) return optimizer_.visit_state(archive);
    archive("parts", parts_);
  }

 private:
  struct Part {
    Optimizer optimizer;
    FlatParameters flat;                                                        ///< one group of one parameter
    decltype(torch::autograd::impl::grad_accumulator(Tensor())) gradient = {};  ///< where autograd gathers it
    std::uintptr_t hook = 0;
    bool is_done = false;

    const FlatSlice& slice() const { return flat.groups.front().slices.front(); }
    template <class Archive>
    void visit_state(Archive& archive) {
      optimizer.visit_state(archive);
    }
  };

  template <class AnyOptimizer>
  static void prepare(AnyOptimizer& optimizer, const FlatParameters& parameters) {
    if constexpr (PreparesState<AnyOptimizer>) optimizer.prepare(parameters);
  }

  /// Runs when all that a backward pass adds to a parameter's gradient is there.
  struct Hook : torch::autograd::FunctionPostHook {
    Hook(Updates& all, Part& one) : updates(all), part(one) {}
    torch::autograd::variable_list operator()(const torch::autograd::variable_list& outputs,
                                              const torch::autograd::variable_list&) override {
      updates.apply(part);
      return outputs;
    }
    Updates& updates;
    Part& part;
  };

  void add_part(const FlatGroup& group, const FlatSlice& slice) {
    FlatSlice alone = slice;
    alone.begin = 0;
    Part& part = parts_.emplace_back(Part{.optimizer = optimizer_, .flat = {}});
    part.flat.groups = {{.values = group.values.narrow(0, slice.begin, slice.numel),
                         .decay = group.decay,
                         .slices = {std::move(alone)}}};
    prepare(part.optimizer, part.flat);
    part.gradient = torch::autograd::impl::grad_accumulator(slice.parameter);
    part.hook = part.gradient->add_post_hook(std::make_unique<Hook>(*this, part));
  }

  /// Throws Error when the gradient is not finite, or comes in two pieces.
  void apply(Part& part) {
    const at::NoGradGuard no_grad;
    const std::string& name = part.slice().name;
    check(!part.is_done, "optim_in_backward: ", name, " received more gradient after its update: it needs one ",
          "backward pass in which autograd knows of all uses of a parameter; set optim_in_backward to False");
    const Tensor& parameter = part.slice().parameter;
    if (!parameter.grad().defined()) return;  // no part in the loss
    const Tensor squares = FlatParameters::sum_of_squares(parameter.grad());
    check(std::isfinite(squares.item<double>()), "optim_in_backward: the gradient of ", name, " is not finite, and ",
          "parameters that come later in the model may have been updated: resume from a checkpoint with a lower ",
          "learning_rate, or set optim_in_backward to False, which checks all gradients first");
    squares_ = squares_.defined() ? squares_ + squares.to(squares_.device()) : squares;
    part.optimizer.step(part.flat, {.learning_rate = learning_rate_, .grad_divisor = {}});
    part.flat.zero_grad();
    part.is_done = true;
  }

  Optimizer& optimizer_;
  FlatParameters parameters_;
  std::deque<Part> parts_;  ///< in_backward; hooks point to them
  double learning_rate_ = 0;
  Tensor squares_;
};

}  // namespace kto
