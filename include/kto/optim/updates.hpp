// SPDX-License-Identifier: Apache-2.0
// From gradients to updates, in one of several ways: HeldUpdates keeps the gradients of all parameters
// until the backward passes are over; UpdatesInBackward updates each parameter in the backward pass, as soon as its
// gradient is complete, and frees that gradient's memory for the next one (as LOMO, arXiv:2306.09782, fuses the two).
// Those of ranks that share the work out are in sharded_updates.hpp.
#pragma once

#include <cmath>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "kto/dist/world.hpp"
#include "kto/io/state.hpp"
#include "kto/optim/concept.hpp"
#include "kto/optim/gradient_sum.hpp"

namespace kto {

/// The trained parameters of a model and their optimizer. For each update, the trainer calls:
///   begin, backward once for each micro-batch, complete, grad_norm, finish or not, end
/// These are a few calls per update, so the cost of virtual functions is negligible.
class Updates {
 public:
  Updates() = default;
  Updates(const Updates&) = delete;
  Updates& operator=(const Updates&) = delete;
  virtual ~Updates() = default;

  virtual void begin(double learning_rate) = 0;

  /// The backward pass of a micro-batch's share of the loss; `is_last`: the update has no other after it. `is_finite`
  /// checks the losses so far, which waits for the device. Updates that change weights during the pass call it first,
  /// and skip the pass if it returns false.
  virtual void backward(const Tensor& share, bool is_last, const std::function<bool()>& is_finite) = 0;

  /// After the backward passes, or what there was of them on this rank: gradients become their sum over the ranks.
  virtual void complete() = 0;

  /// The Euclidean norm of all gradients of the update, a float64 scalar tensor; 0 before its backward pass.
  virtual Tensor grad_norm() const = 0;

  /// Updates all parameters that have a gradient, unless the backward pass did.
  virtual void finish(const Update& update) = 0;

  /// Drops the gradients, after an update or instead of one: the next step's activations reuse their memory.
  virtual void end() = 0;

  /// Whether a checkpoint needs the optimizer's state. Throws Error for an optimizer that has state but does not list
  /// it.
  virtual bool has_state() const = 0;
  virtual void visit_state(StateWriter& archive) = 0;
  virtual void visit_state(StateReader& archive) = 0;
  /// Runs `write` on rank 0, to write what visit_state has listed. All ranks call it; throws on all if it throws.
  virtual void write_state(const World& world, const std::function<void()>& write) { on_first(world, write); }
};

namespace detail {

template <class Optimizer>
bool keeps_state() {
  if constexpr (HasState<Optimizer>) return true;
  check(std::is_empty_v<Optimizer>,
        "this optimizer cannot be saved: write `template <class Archive> void visit_state(Archive&)` in it; see "
        "kto/io/state.hpp");
  return false;
}

template <class Optimizer, class Archive>
void visit_optimizer(Optimizer& optimizer, Archive& archive) {
  if constexpr (HasState<Optimizer>) optimizer.visit_state(archive);
}

template <class Optimizer>
void prepare(Optimizer& optimizer, const FlatParameters& parameters) {
  if constexpr (PreparesState<Optimizer>) optimizer.prepare(parameters);
}

}  // namespace detail

/// Holds the gradients of all parameters, and updates all parameters together.
template <class Optimizer>
class HeldUpdates final : public Updates {
 public:
  /// Moves the model's parameters; see flatten_parameters. `optimizer` must outlive this.
  template <HasParameters Model>
  HeldUpdates(const Model& model, Optimizer& optimizer, const World& world = {})
      : optimizer_(optimizer), parameters_(flatten_parameters(model)) {
    detail::prepare(optimizer_, parameters_);
    if (!world.alone()) sum_.emplace(world, parameters_);
  }
  ~HeldUpdates() override { parameters_.zero_grad(); }

  void begin(double) override {}
  void backward(const Tensor& share, bool is_last, const std::function<bool()>&) override {
    if (sum_ && is_last) sum_->listen();
    share.backward();
  }
  void complete() override {
    if (sum_) sum_->finish();
  }
  Tensor grad_norm() const override { return parameters_.grad_norm(); }
  void finish(const Update& update) override { optimizer_.step(parameters_, update); }
  void end() override { parameters_.zero_grad(); }
  bool has_state() const override { return detail::keeps_state<Optimizer>(); }
  void visit_state(StateWriter& archive) override { detail::visit_optimizer(optimizer_, archive); }
  void visit_state(StateReader& archive) override { detail::visit_optimizer(optimizer_, archive); }

 private:
  Optimizer& optimizer_;
  FlatParameters parameters_;
  std::optional<GradientSum> sum_;  ///< with other ranks
};

/// Each parameter has its own copy of the optimizer, and an update is one backward pass. Where gradients are clipped, a
/// pass before it finds their norm, and keeps none of them.
template <class Optimizer>
class UpdatesInBackward final : public Updates {
 public:
  /// Moves the model's parameters; see flatten_parameters.
  template <HasParameters Model>
  UpdatesInBackward(const Model& model, const Optimizer& optimizer, double max_grad_norm = 0)
      : parameters_(flatten_parameters(model)), max_grad_norm_(max_grad_norm) {
    for (const FlatGroup& group : parameters_.groups)
      for (const FlatSlice& slice : group.slices) add_part(group, slice, optimizer);
  }
  ~UpdatesInBackward() override {
    for (Part& part : parts_) part.gradient->del_post_hook(part.hook);
    parameters_.zero_grad();
  }

  void begin(double learning_rate) override {
    learning_rate_ = learning_rate;
    squares_.reset();
    divisor_.reset();
    for (Part& part : parts_) part.is_done = false;
  }
  void backward(const Tensor& share, bool, const std::function<bool()>& is_finite) override {
    if (max_grad_norm_ > 0) {
      measures_ = true;
      share.backward(/*gradient=*/{}, /*keep_graph=*/true);
      measures_ = false;
      divisor_ = grad_divisor(grad_norm(), /*scale=*/1, max_grad_norm_);
      for (Part& part : parts_) part.is_done = false;
    }
    if (is_finite()) share.backward();
  }
  void complete() override {}
  Tensor grad_norm() const override { return squares_.defined() ? squares_.sqrt() : at::zeros({}, at::kDouble); }
  void finish(const Update&) override {}
  void end() override { parameters_.zero_grad(); }
  bool has_state() const override { return detail::keeps_state<Optimizer>(); }
  void visit_state(StateWriter& archive) override { archive("parts", parts_); }
  void visit_state(StateReader& archive) override { archive("parts", parts_); }

 private:
  struct Part {
    Optimizer optimizer;
    FlatParameters flat;                                                        ///< one group of one parameter
    decltype(torch::autograd::impl::grad_accumulator(Tensor())) gradient = {};  ///< where autograd accumulates it
    std::uintptr_t hook = 0;
    bool is_done = false;

    const FlatSlice& slice() const { return flat.groups.front().slices.front(); }
    template <class Archive>
    void visit_state(Archive& archive) {
      detail::visit_optimizer(optimizer, archive);
    }
  };

  /// Runs when a parameter's gradient is complete.
  struct Hook : torch::autograd::FunctionPostHook {
    Hook(UpdatesInBackward& all, Part& one) : updates(all), part(one) {}
    torch::autograd::variable_list operator()(const torch::autograd::variable_list& outputs,
                                              const torch::autograd::variable_list&) override {
      updates.apply(part);
      return outputs;
    }
    UpdatesInBackward& updates;
    Part& part;
  };

  void add_part(const FlatGroup& group, const FlatSlice& slice, const Optimizer& optimizer) {
    FlatSlice alone = slice;
    alone.begin = 0;
    Part& part = parts_.emplace_back(Part{.optimizer = optimizer, .flat = {}});
    part.flat.groups = {{.values = group.values.narrow(0, slice.begin, slice.numel),
                         .decay = group.decay,
                         .slices = {std::move(alone)}}};
    detail::prepare(part.optimizer, part.flat);
    part.gradient = torch::autograd::impl::grad_accumulator(slice.parameter);
    part.hook = part.gradient->add_post_hook(std::make_unique<Hook>(*this, part));
  }

  /// Throws Error if the gradient arrives in two parts, or is not finite and its norm was not known.
  void apply(Part& part) {
    const at::NoGradGuard no_grad;
    const std::string& name = part.slice().name;
    check(!part.is_done, "optim_in_backward: ", name, " received more gradient after its update: it needs one ",
          "backward pass in which autograd knows of all uses of a parameter; set optim_in_backward to False");
    const Tensor& parameter = part.slice().parameter;
    if (!parameter.grad().defined()) return;  // not part of the loss
    part.is_done = true;
    if (measures_ || max_grad_norm_ <= 0) {
      const Tensor squares = FlatParameters::sum_of_squares(parameter.grad());
      squares_ = squares_.defined() ? squares_ + squares.to(squares_.device()) : squares;
      check(measures_ || std::isfinite(squares.item<double>()), "optim_in_backward: the gradient of ", name,
            " is not finite, and ",
            "parameters that come later in the model may have been updated: resume from a checkpoint with a lower ",
            "learning_rate, or set max_grad_norm, with which all gradients are checked first");
    }
    if (!measures_) part.optimizer.step(part.flat, {.learning_rate = learning_rate_, .grad_divisor = divisor_});
    part.flat.zero_grad();
  }

  FlatParameters parameters_;
  std::deque<Part> parts_;  ///< hooks point to them
  double max_grad_norm_, learning_rate_ = 0;
  bool measures_ = false;  ///< in the pass that finds the norm
  Tensor squares_, divisor_;
};

}  // namespace kto
