// SPDX-License-Identifier: Apache-2.0
// A World whose ranks share out weights: what code that uses such weights calls.
#pragma once

#include <memory>
#include <utility>

#include "kto/dist/weight_units.hpp"

namespace kto {

namespace detail {

/// Carries the calls of a World. A rank that waits in one takes part in what others do with units meanwhile.
class ServingGroup final : public Group {
 public:
  ServingGroup(std::shared_ptr<Group> inner, std::shared_ptr<WeightUnits> units)
      : inner_(std::move(inner)), units_(std::move(units)) {}
  WeightUnits& units() const { return *units_; }

  Pending all_reduce(const Tensor& tensor, Reduction reduction) override {
    return served().all_reduce(tensor, reduction);
  }
  Pending all_gather(const Tensor& out, const Tensor& in) override { return served().all_gather(out, in); }
  Pending reduce_scatter(const Tensor& out, const Tensor& in) override { return served().reduce_scatter(out, in); }
  Pending broadcast(const Tensor& tensor, int root) override { return served().broadcast(tensor, root); }
  Pending reduce(const Tensor& tensor, int root) override { return served().reduce(tensor, root); }
  void fail(const std::string& text, bool may_retry) noexcept override { inner_->fail(text, may_retry); }

 private:
  Group& served() {
    units_->serve();
    return *inner_;
  }
  std::shared_ptr<Group> inner_;
  std::shared_ptr<WeightUnits> units_;
};

}  // namespace detail

/// The units of a World that with_units made; null for others.
inline WeightUnits* units_of(const World& world) {
  const auto* serving = dynamic_cast<const detail::ServingGroup*>(world.group.get());
  return serving == nullptr ? nullptr : &serving->units();
}

/// `world`, whose ranks can share out weights: all of them use it for all calls from now on. Alone, it is the same.
inline World with_units(World world) {
  if (world.alone() || units_of(world) != nullptr) return world;
  const std::shared_ptr<Group> inner = world.group;
  world.group = std::make_shared<detail::ServingGroup>(inner, std::make_shared<WeightUnits>(world));
  return world;
}

/// `tensor`, with its values: gathered if it is shared out, until the next call for another unit. Other ranks may be
/// elsewhere.
inline const Tensor& present(const Tensor& tensor) {
  if (WeightUnit* const unit = unit_of(tensor); unit != nullptr && !unit->is_here) unit->all.fetch({&unit, 1});
  return tensor;
}

/// After `tensor` was written to: keeps this rank's part of it, if it is shared out. It must be present.
inline void keep_own_part(const Tensor& tensor) {
  if (unit_of(tensor) == nullptr) return;
  const at::NoGradGuard no_grad;
  const WeightUnits::Part part = WeightUnits::part_of(tensor);
  part.values_n.copy_(tensor.detach().reshape(-1).narrow(0, part.offset, part.values_n.numel()));
}

}  // namespace kto
