// SPDX-License-Identifier: Apache-2.0
// One unit of weights that ranks share out (kto/dist/weight_units.hpp), and how tensors know theirs: the storage of its
// parameters points to it, so every view and every copy of their handles does.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "kto/dist/world.hpp"

namespace kto {

class WeightUnits;

/// Parameters that are gathered together. Their tensors keep sizes and gradients, and have memory while it is here.
struct WeightUnit {
  /// Those of one type and device that are all trained, or all frozen, in one buffer.
  struct Block {
    bool is_trained;
    std::vector<c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>> parameters = {};
    std::vector<std::int64_t> begins = {};  ///< of the parameters
    std::vector<bool> has_gradient = {};    ///< in this update, on this rank, as far as summed
    std::vector<std::int64_t> cuts = {};    ///< where each rank's part begins; then the end
    Tensor own_n = {};                      ///< the values of this rank's part
    Tensor sum_n = {};                      ///< of its gradients over the ranks; undefined before the first
    c10::StorageImpl* storage = nullptr;    ///< of the parameters; null once they are gone
    at::DataPtr memory = {};                ///< of the storage while the unit is here

    std::int64_t numel() const { return cuts.back(); }
    /// Whether all ranks' parts are of one size.
    bool is_even() const {
      for (std::size_t r = 1; r < cuts.size(); ++r)
        if (cuts[r] - cuts[r - 1] != cuts[1]) return false;
      return true;
    }
    Tensor parameter(std::size_t i) const {
      auto alive = parameters[i].lock();
      return alive.defined() ? Tensor(std::move(alive)) : Tensor();
    }
  };

  WeightUnits& all;
  std::int64_t number;
  bool stays;  ///< once here, it is freed by forget() alone
  bool is_here = false;
  std::deque<Block> blocks = {};
};

namespace detail {

/// What a storage of a unit's parameters holds in place of its memory.
struct UnitStorage {
  std::shared_ptr<WeightUnits> all;
  WeightUnit* unit;
  WeightUnit::Block* block;

  static void drop(void* context) {
    const std::unique_ptr<UnitStorage> own(static_cast<UnitStorage*>(context));
    own->block->storage = nullptr;
    own->block->memory.clear();
  }
  /// Of a tensor, or null.
  static UnitStorage* of(const Tensor& tensor) {
    if (!tensor.defined() || !tensor.has_storage()) return nullptr;
    const at::DataPtr& data = tensor.storage().data_ptr();
    return data.get_deleter() == &drop ? static_cast<UnitStorage*>(data.get_context()) : nullptr;
  }
};

}  // namespace detail

/// The unit of which a tensor, or a view of it, is a part; null if it is whole on each rank.
inline WeightUnit* unit_of(const Tensor& tensor) {
  const auto* held = detail::UnitStorage::of(tensor);
  return held == nullptr ? nullptr : held->unit;
}

}  // namespace kto
