// SPDX-License-Identifier: Apache-2.0
// Updates of which each rank makes its part (ZeRO, arXiv:1910.02054): it has the optimizer's state of its shard alone
// (stage 1), of the gradients' sum its shard alone (stage 2), of the weights its part alone (stage 3).
#pragma once

#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kto/dist/shared_out.hpp"
#include "kto/optim/sharded_state.hpp"
#include "kto/optim/updates.hpp"

namespace kto {

/// What all such updates have in common: an optimizer on parameters that are this rank's, and a state that is whole in
/// checkpoints.
template <class Optimizer>
class PartialUpdates : public Updates {
 public:
  /// `own` lists all parameters, with this rank's part of each. `optimizer` must outlive this. Throws UsageError if its
  /// state cannot be sharded.
  PartialUpdates(Optimizer& optimizer, const World& world, FlatParameters own)
      : world_(world), optimizer_(optimizer), own_(std::move(own)) {
    if (HasState<Optimizer> && !PreparesState<Optimizer>)
      throw UsageError(
          "zero_stage: this optimizer makes its state as it goes, which cannot be sharded: write `void prepare(const "
          "FlatParameters&)` in it (kto/optim/concept.hpp), or set zero_stage to 0");
    detail::prepare(optimizer_, own_);
    state_.emplace(world_, own_state());
  }

  void begin(double) override {}
  Tensor grad_norm() const override { return norm_.defined() ? norm_ : at::zeros({}, at::kDouble); }
  void end() override {
    own_.zero_grad();
    norm_.reset();
  }
  bool has_state() const override { return detail::keeps_state<Optimizer>(); }
  void visit_state(StateWriter& archive) override { archive.put(state_->whole(own_state())); }
  void visit_state(StateReader& archive) override {
    archive.restore_parts(
        [this](const std::string& name, const Tensor& stored) { return state_->own_part(name, stored); });
    detail::visit_optimizer(optimizer_, archive);
  }
  void write_state(const World&, const std::function<void()>& write) override { state_->write_on_first(write); }

 protected:
  /// The norm of the gradients of which each rank has its part.
  Tensor norm_of_parts() const {
    const double own = own_.grad_norm().template item<double>();
    return at::scalar_tensor(std::sqrt(world_.sum(own * own)), at::kDouble);
  }

  World world_;
  Optimizer& optimizer_;
  FlatParameters own_;
  Tensor norm_ = {};

 private:
  SavedState own_state() {
    StateWriter archive;
    detail::visit_optimizer(optimizer_, archive);
    return archive.take();
  }
  std::optional<ShardedState> state_;
};

/// Stages 1 and 2, of weights that are whole on all ranks. Until the last backward pass of an update, its own gradients
/// are whole, too.
template <class Optimizer>
class ShardedUpdates final : public PartialUpdates<Optimizer> {
  using Base = PartialUpdates<Optimizer>;
  using Base::own_, Base::world_, Base::norm_;

 public:
  /// Moves the model's parameters; see flatten_parameters.
  template <HasParameters Model>
  ShardedUpdates(const Model& model, Optimizer& optimizer, const World& world, std::int64_t stage)
      : ShardedUpdates(flatten_parameters(model), optimizer, world, stage) {}
  ~ShardedUpdates() override { parameters_.zero_grad(); }

  void backward(const Tensor& share, bool is_last, const std::function<bool()>&) override {
    if (is_last) sum_->listen();
    share.backward();
  }
  void complete() override {
    sum_->finish();
    norm_ = has_whole_sums_ ? parameters_.grad_norm() : this->norm_of_parts();
  }
  void finish(const Update& update) override {
    if (has_whole_sums_) take_own_gradients();
    this->optimizer_.step(own_, update);
    shards_.gather_values(parameters_, world_);
  }
  void end() override {
    parameters_.zero_grad();
    Base::end();
  }

 private:
  ShardedUpdates(FlatParameters parameters, Optimizer& optimizer, const World& world, std::int64_t stage)
      : ShardedUpdates(parameters, Shards(parameters, world.size, detail::is_elementwise(optimizer)), optimizer, world,
                       stage) {}
  ShardedUpdates(FlatParameters parameters, Shards shards, Optimizer& optimizer, const World& world, std::int64_t stage)
      : Base(optimizer, world, shards.shard(parameters, world.rank)),
        parameters_(std::move(parameters)),
        shards_(std::move(shards)),
        has_whole_sums_(stage < 2) {
    if (has_whole_sums_)
      sum_.emplace(world_, parameters_);
    else
      sum_.emplace(world_, parameters_, &shards_, &own_);
  }

  void take_own_gradients() {
    for (std::size_t g = 0; g < own_.groups.size(); ++g)
      for (std::size_t i = 0; i < own_.groups[g].slices.size(); ++i) {
        const FlatSlice& own = own_.groups[g].slices[i];
        const Tensor& sum = parameters_.groups[g].slices[i].parameter.grad();
        if (sum.defined()) own.parameter.mutable_grad() = own.part_of(sum);
      }
  }

  FlatParameters parameters_;
  Shards shards_;
  bool has_whole_sums_;
  std::optional<GradientSum> sum_;
};

/// Stage 3, of weights in units (kto/dist/weight_units.hpp), which sum gradients as the passes go.
template <class Optimizer>
class UnitUpdates final : public PartialUpdates<Optimizer> {
  static_assert(WeightUnits::run % FlatParameters::run == 0, "an optimizer may count on where a parameter is cut");
  using Base = PartialUpdates<Optimizer>;
  using Base::own_, Base::world_, Base::norm_;

 public:
  /// All trained parameters of the model are in `units`, those of `world`.
  template <HasParameters Model>
  UnitUpdates(const Model& model, Optimizer& optimizer, const World& world, WeightUnits& units)
      : UnitUpdates(trained(model), optimizer, world, units) {}
  ~UnitUpdates() override { units_.zero_grad(); }

  void backward(const Tensor& share, bool, const std::function<bool()>&) override { share.backward(); }
  void complete() override {
    units_.sum_gradients();
    std::vector<double> have;  // a parameter without gradient on all ranks is not updated
    for (const FlatSlice& whole : parameters_) have.push_back(WeightUnits::part_of(whole.parameter).has_gradient);
    have = world_.sum(std::move(have));
    for (std::size_t i = 0; i < have.size(); ++i)
      if (have[i] > 0) {
        const FlatSlice& own = own_.groups[i].slices.front();
        own.parameter.mutable_grad() = WeightUnits::part_of(parameters_[i].parameter).sums_n.view(own.sizes);
      }
    norm_ = this->norm_of_parts();
  }
  void finish(const Update& update) override {
    this->optimizer_.step(own_, update);
    units_.forget();
  }
  void end() override {
    units_.zero_grad();
    Base::end();
  }

 private:
  UnitUpdates(std::vector<FlatGroup> parameters, Optimizer& optimizer, const World& world, WeightUnits& units)
      : Base(optimizer, world, parts_of(parameters)), units_(units) {
    for (FlatGroup& group : parameters) parameters_.push_back(std::move(group.slices.front()));
  }

  /// The trained parameters in the order of FlatParameters, each a group without values.
  template <HasParameters Model>
  static std::vector<FlatGroup> trained(const Model& model) {
    std::vector<FlatGroup> out;
    for (const auto& [key, parameters] : grouped_parameters(model))
      for (const auto& [name, parameter] : parameters) {
        check(unit_of(parameter) != nullptr, "zero_stage 3: ", name, " is trained, and is not shared out");
        out.push_back({.values = {},
                       .decay = key.second,
                       .slices = {{0, parameter.sizes().vec(), parameter.numel(), name, parameter}}});
      }
    return out;
  }

  /// This rank's parts, each a group of its own.
  static FlatParameters parts_of(const std::vector<FlatGroup>& parameters) {
    FlatParameters out;
    for (const FlatGroup& group : parameters) {
      const WeightUnits::Part part = WeightUnits::part_of(group.slices.front().parameter);
      FlatGroup& own = out.groups.emplace_back(group);
      own.values = part.values_n;
      FlatSlice& slice = own.slices.front();
      slice.num_elsewhere = slice.numel - part.values_n.numel();
      slice.numel = part.values_n.numel();
      slice.offset = part.offset;
      if (slice.num_elsewhere > 0 || slice.sizes.empty()) slice.sizes = {slice.numel};
      slice.parameter = slice.view(own.values);
    }
    return out;
  }

  std::vector<FlatSlice> parameters_ = {};
  WeightUnits& units_;
};

/// The updates of `model` by `optimizer`, which must outlive them, sharded over ranks if `zero_stage` is above 0: in
/// stage 3 all weights of the model are in units, or none that is trained (adapters). `max_grad_norm` is for updates in the
/// backward pass, which clip gradients themselves. Throws UsageError for updates in
/// the backward pass of several ranks, and for state that cannot be sharded.
template <HasParameters Model, class Optimizer>
std::unique_ptr<Updates> make_updates(const Model& model, Optimizer& optimizer, bool in_backward, double max_grad_norm,
                                      const World& world = {}, std::int64_t zero_stage = 0) {
  if (in_backward && !world.alone())
    throw UsageError(concat("optim_in_backward: a weight cannot be updated in the backward pass of one of ", world.size,
                            " processes: its gradient is the sum of theirs; set it to False"));
  if (in_backward) return std::make_unique<UpdatesInBackward<Optimizer>>(model, optimizer, max_grad_norm);
  if (zero_stage == 0 || world.alone()) return std::make_unique<HeldUpdates<Optimizer>>(model, optimizer, world);
  if (WeightUnits* const units = units_of(world); units != nullptr && zero_stage == 3)
    for (const auto& [name, parameter] : model.named_parameters())
      if (parameter.requires_grad() && unit_of(parameter) != nullptr)
        return std::make_unique<UnitUpdates<Optimizer>>(model, optimizer, world, *units);
  return std::make_unique<ShardedUpdates<Optimizer>>(model, optimizer, world, zero_stage);
}

}  // namespace kto
