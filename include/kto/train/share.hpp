// SPDX-License-Identifier: Apache-2.0
// Which micro-batches of a run are whose: they are dealt out to the ranks one by one, in order.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "kto/dist/world.hpp"
#include "kto/train/config.hpp"

namespace kto {

/// The micro-batches of an update, or of an evaluation, as one of the ranks has them: of W ranks, rank r every W-th one
/// from the r-th on. A micro-step is `step_size` micro-batches in a row, which have one baseline and one mean loss; that
/// is one for each rank, unless the run was begun on another number of ranks.
struct Share {
  World world = {};
  std::size_t step_size = static_cast<std::size_t>(world.size);

  std::size_t size() const { return static_cast<std::size_t>(world.size); }
  /// Whether micro-batch `i` is this rank's.
  bool is_own(std::size_t i) const { return i % size() == static_cast<std::size_t>(world.rank); }
  /// Those of `batches` that are this rank's.
  template <class Batch>
  std::vector<Batch> own(std::vector<Batch> batches) const {
    std::vector<Batch> out;
    for (std::size_t i = 0; i < batches.size(); ++i)
      if (is_own(i)) out.push_back(std::move(batches[i]));
    return out;
  }
  /// Number `own` of this rank's among all.
  std::size_t index(std::size_t own) const { return own * size() + static_cast<std::size_t>(world.rank); }
  /// The micro-step of number `own` of this rank's.
  std::size_t step(std::size_t own) const { return index(own) / step_size; }
  /// The first micro-step of turn number `turn`, in which each rank has one micro-batch.
  std::size_t step_of_turn(std::size_t turn) const { return turn * size() / step_size; }
  bool begins_step(std::size_t own) const { return index(own) % step_size == 0; }
  std::size_t num_steps(std::size_t num_batches) const { return (num_batches + step_size - 1) / step_size; }
  /// The last one may have no micro-batch for some ranks.
  std::size_t num_turns(std::size_t num_batches) const { return (num_batches + size() - 1) / size(); }
  /// Whether the ranks compute a micro-step side by side, in one turn.
  bool is_side_by_side() const { return step_size == size(); }
};

/// `config`, as one process has it that makes the updates of all ranks by itself: each from as many more micro-batches.
inline TrainConfig of_all_ranks(TrainConfig config, const World& world) {
  config.gradient_accumulation_steps *= world.size;
  return config;
}

}  // namespace kto
