// SPDX-License-Identifier: Apache-2.0
// Weights in parts over the ranks (ZeRO stage 3, arXiv:1910.02054). A unit is a set of parameters that are needed
// together, those of a layer. Each rank keeps a part of a unit's values, and has all of them only while it computes with
// them: present() gathers them, and the next call for another unit frees them.
//
// Ranks may be at different layers and run different numbers of passes. Before each gathering or sum, all ranks agree on
// which unit it is for, and a rank that waits in any other call of its World takes part until all of them wait.
#pragma once

#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "kto/dist/weight_unit.hpp"

namespace kto {

/// The units of a World, and the calls that gather their values and sum their gradients.
class WeightUnits : public std::enable_shared_from_this<WeightUnits> {
 public:
  /// Parts begin at multiples of it within a parameter.
  static constexpr std::int64_t run = 4096;

  /// Of the ranks of `world`; none yet.
  explicit WeightUnits(World world) : world_(std::move(world)) {}
  WeightUnits(const WeightUnits&) = delete;
  WeightUnits& operator=(const WeightUnits&) = delete;
  ~WeightUnits() {
    for (Pending& each : coming_.calls) each.wait();
  }

  /// Takes the values of `parameters`, which are the same on all ranks, into a unit. All ranks call it. If not
  /// `cuts_inside`, each trained parameter is one rank's.
  void add(const std::vector<Tensor>& parameters, bool stays, bool cuts_inside) {
    const at::NoGradGuard no_grad;
    std::map<std::string, std::vector<Tensor>> alike;
    for (const Tensor& each : parameters)
      alike[concat(each.device(), each.scalar_type(), each.requires_grad())].push_back(each);
    WeightUnit& unit = units_.emplace_back(WeightUnit{.all = *this, .number = std::ssize(units_), .stays = stays});
    for (const auto& each : alike) add_block(unit, each.second, cuts_inside || !each.second.front().requires_grad());
  }

  /// The values of `wanted` are here when it returns; those of `next` are on their way, to be wanted next. Others are
  /// freed, and gradients of theirs are summed.
  void fetch(std::span<WeightUnit* const> wanted, WeightUnit* next = nullptr) {
    bool asks = next != nullptr && !next->is_here && coming_.unit != next;
    for (;;) {
      for (WeightUnit& unit : units_)
        if (unit.is_here && !unit.stays && &unit != next && !among(wanted, &unit)) free(unit);
      const auto missing = std::ranges::find_if(wanted, [](const WeightUnit* unit) { return !unit->is_here; });
      WeightUnit* const done =
          with_gradients([&](const WeightUnit& unit) { return !unit.stays && !among(wanted, &unit); });
      if (missing != wanted.end() && coming_.unit == *missing) {
        finish();
      } else if (done != nullptr) {
        turn({.call = sum_of(*done)});
      } else if (missing != wanted.end() || asks) {
        turn({.call = missing != wanted.end() ? values_of(**missing) : 0, .next = asks ? values_of(*next) : 0});
        asks = false;
      } else {
        return;
      }
    }
  }

  /// Sums all gradients of this rank's passes.
  void sum_gradients() {
    while (WeightUnit* const unit = with_gradients([](const WeightUnit&) { return true; }))
      turn({.call = sum_of(*unit)});
  }

  /// Takes part in what other ranks fetch and sum, until all ranks have called it.
  void serve() {
    while (turn({.is_busy = 0})) continue;
  }

  /// Frees all values, which are no longer those of the parts.
  void forget() {
    finish();
    for (WeightUnit& unit : units_)
      if (unit.is_here) free(unit);
  }

  /// Drops gradients and their sums.
  void zero_grad() {
    for (WeightUnit& unit : units_)
      for (WeightUnit::Block& block : unit.blocks) {
        block.sum_n.reset();
        block.has_gradient.assign(block.begins.size(), false);
        for (std::size_t i = 0; block.is_trained && i < block.begins.size(); ++i)
          if (const Tensor parameter = block.parameter(i); parameter.defined()) parameter.mutable_grad() = Tensor();
      }
  }

  /// This rank's part of a trained parameter of a unit.
  struct Part {
    Tensor values_n;      ///< of this rank's part, in its memory
    Tensor sums_n;        ///< of its gradients; undefined if there are none
    std::int64_t offset;  ///< of the part in the parameter
    bool has_gradient;    ///< on this rank, of the whole parameter
  };
  /// Of `parameter`, which must be one of a unit.
  static Part part_of(const Tensor& parameter) {
    const detail::UnitStorage& held = *detail::UnitStorage::of(parameter);
    const WeightUnit::Block& block = *held.block;
    const std::int64_t begin = parameter.storage_offset(), end = begin + parameter.numel();
    const auto index = static_cast<std::size_t>(std::ranges::find(block.begins, begin) - block.begins.begin());
    const std::int64_t own = block.cuts[static_cast<std::size_t>(held.all->world_.rank)], from = std::max(begin, own),
                       size = std::max<std::int64_t>(0, std::min(end, own + block.own_n.numel()) - from);
    const auto part = [&](const Tensor& of_n) { return of_n.narrow(0, size > 0 ? from - own : 0, size); };
    return {.values_n = part(block.own_n),
            .sums_n = block.sum_n.defined() ? part(block.sum_n) : Tensor(),
            .offset = size > 0 ? from - begin : 0,
            .has_gradient = block.has_gradient[index]};
  }

 private:
  /// What a rank asks of all others; the largest of each counts.
  struct Wish {
    std::int64_t call = 0;  ///< a unit's values or sum
    std::int64_t next = 0;  ///< a unit's values, for later
    std::int64_t is_busy = 1;
  };
  static std::int64_t values_of(const WeightUnit& unit) { return 2 * unit.number + 1; }
  static std::int64_t sum_of(const WeightUnit& unit) { return 2 * unit.number + 2; }

  /// Values on their way.
  struct Coming {
    WeightUnit* unit = nullptr;
    bool stays = false;  ///< this rank wants them
    std::vector<Pending> calls = {};
  };

  static bool among(std::span<WeightUnit* const> units, const WeightUnit* unit) {
    return std::ranges::find(units, unit) != units.end();
  }

  template <class Where>
  WeightUnit* with_gradients(const Where& where) {
    const auto has_one = [](const WeightUnit::Block& block) {
      for (std::size_t i = 0; block.is_trained && i < block.begins.size(); ++i)
        if (const Tensor parameter = block.parameter(i); parameter.defined() && parameter.grad().defined()) return true;
      return false;
    };
    for (WeightUnit& unit : units_)
      if (where(unit) && std::ranges::any_of(unit.blocks, has_one)) return &unit;
    return nullptr;
  }

  void add_block(WeightUnit& unit, const std::vector<Tensor>& parameters, bool cuts_inside) {
    const auto padded = [](std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; };
    WeightUnit::Block& block = unit.blocks.emplace_back(WeightUnit::Block{.is_trained = parameters[0].requires_grad()});
    std::int64_t numel = 0;
    for (const Tensor& each : parameters) {
      block.begins.push_back(numel);
      numel += padded(each.numel(), run);
    }
    block.has_gradient.assign(parameters.size(), false);
    if (cuts_inside) numel = padded(numel, run * world_.size);
    for (int rank = 0; rank <= world_.size; ++rank) {
      std::int64_t cut = rank * (numel / world_.size);
      if (!cuts_inside && rank < world_.size)
        cut = *std::ranges::min_element(block.begins, {}, [&](std::int64_t begin) { return std::abs(begin - cut); });
      block.cuts.push_back(rank == world_.size ? numel : cut);
    }
    const Tensor whole_n = at::zeros({numel}, parameters[0].options().requires_grad(false));
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const Tensor place =
          whole_n.narrow(0, block.begins[i], parameters[i].numel()).view(parameters[i].sizes()).copy_(parameters[i]);
      parameters[i].set_data(place);
      parameters[i].mutable_grad() = Tensor();
      block.parameters.emplace_back(parameters[i].getIntrusivePtr());
    }
    block.own_n = own_of(block, whole_n).clone();
    block.storage = whole_n.storage().unsafeGetStorageImpl();
    auto* held = new detail::UnitStorage{.all = shared_from_this(), .unit = &unit, .block = &block};
    block.storage->set_data_ptr_noswap({nullptr, held, &detail::UnitStorage::drop, whole_n.device()});
  }

  Tensor own_of(const WeightUnit::Block& block, const Tensor& whole_n) const {
    const auto r = static_cast<std::size_t>(world_.rank);
    return whole_n.narrow(0, block.cuts[r], block.cuts[r + 1] - block.cuts[r]);
  }

  /// Gives a storage `memory`, or none.
  static void put(WeightUnit::Block& block, at::DataPtr memory) {
    if (block.storage == nullptr) return;
    void* const context = block.storage->data_ptr().get_context();
    at::DataPtr old =
        block.storage->set_data_ptr({memory.get(), context, &detail::UnitStorage::drop, block.storage->device()});
    (void)old.release_context();
    block.memory = std::move(memory);
  }
  static void free(WeightUnit& unit) {
    for (WeightUnit::Block& block : unit.blocks) put(block, {nullptr, block.own_n.device()});
    unit.is_here = false;
  }

  /// The buffer of a block for values to come: that of its parameters, or for none here another one.
  static Tensor buffer(WeightUnit::Block& block, bool stays) {
    if (!stays || block.storage == nullptr) return at::empty({block.numel()}, block.own_n.options());
    put(block, c10::GetAllocator(block.own_n.device().type())->allocate(block.storage->nbytes()));
    return at::empty({0}, block.own_n.options())
        .set_(c10::Storage(c10::intrusive_ptr<c10::StorageImpl>::reclaim_copy(block.storage)), 0, {block.numel()}, {1});
  }

  void start(WeightUnit& unit, bool is_wanted) {
    coming_ = {.unit = &unit, .stays = is_wanted && !unit.is_here};
    for (WeightUnit::Block& block : unit.blocks) {
      const Tensor whole_n = buffer(block, coming_.stays);
      if (block.is_even()) {
        coming_.calls.push_back(world_.all_gather(whole_n, block.own_n));
        continue;
      }
      own_of(block, whole_n).copy_(block.own_n);
      for (int rank = 0; rank < world_.size; ++rank) {
        const auto r = static_cast<std::size_t>(rank);
        if (const std::int64_t size = block.cuts[r + 1] - block.cuts[r]; size > 0)
          coming_.calls.push_back(world_.broadcast(whole_n.narrow(0, block.cuts[r], size), rank));
      }
    }
  }
  void finish() {
    for (Pending& each : coming_.calls) each.wait();
    if (coming_.stays) coming_.unit->is_here = true;
    coming_ = {};
  }

  /// The sums of the ranks' gradients, added to those of the parts.
  void sum(WeightUnit& unit) {
    for (WeightUnit::Block& block : unit.blocks) {
      if (!block.is_trained) continue;
      const Tensor grads_n = at::zeros({block.numel()}, block.own_n.options());
      for (std::size_t i = 0; i < block.begins.size(); ++i) {
        const Tensor parameter = block.parameter(i);
        if (!parameter.defined() || !parameter.grad().defined()) continue;
        grads_n.narrow(0, block.begins[i], parameter.numel()).view(parameter.sizes()).copy_(parameter.grad());
        parameter.mutable_grad() = Tensor();
        block.has_gradient[i] = true;
      }
      Tensor own_n;
      if (block.is_even()) {
        own_n = at::empty_like(block.own_n);
        world_.reduce_scatter(own_n, grads_n).wait();
      } else {
        for (int rank = 0; rank < world_.size; ++rank) {
          const auto r = static_cast<std::size_t>(rank);
          if (const std::int64_t size = block.cuts[r + 1] - block.cuts[r]; size > 0)
            world_.reduce_to(rank, grads_n.narrow(0, block.cuts[r], size)).wait();
        }
        own_n = own_of(block, grads_n).clone();
      }
      block.sum_n = block.sum_n.defined() ? block.sum_n.add_(own_n) : own_n;
    }
  }

  /// One call that all ranks agree on. Returns whether a rank was busy.
  bool turn(const Wish& own) {
    const at::NoGradGuard no_grad;
    const Tensor wishes = at::empty({3}, at::kLong);
    auto* wish = wishes.mutable_data_ptr<std::int64_t>();
    std::ranges::copy(std::array{own.call, own.next, own.is_busy}, wish);
    world_.all_reduce(wishes, Reduction::max).wait();
    finish();
    if (wish[0] > 0) {
      WeightUnit& unit = units_[static_cast<std::size_t>((wish[0] - 1) / 2)];
      if (wish[0] == sum_of(unit)) {
        sum(unit);
      } else {
        start(unit, own.call == wish[0]);
        finish();
      }
    }
    if (wish[1] > 0) start(units_[static_cast<std::size_t>((wish[1] - 1) / 2)], own.next == wish[1]);
    return wish[2] > 0;
  }

  World world_;
  std::deque<WeightUnit> units_;
  Coming coming_;
};

}  // namespace kto
