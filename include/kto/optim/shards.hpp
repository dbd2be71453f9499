// SPDX-License-Identifier: Apache-2.0
// The flat parameters cut over ranks: each has the optimizer's state of its shard alone (ZeRO, arXiv:1910.02054).
#pragma once

#include <algorithm>
#include <cstdlib>
#include <utility>
#include <vector>

#include "kto/dist/world.hpp"
#include "kto/optim/flat_parameters.hpp"

namespace kto {

/// One contiguous part of each group for each rank, of nearly the same size.
class Shards {
 public:
  /// Cuts `parameters` for `size` ranks: between parameters, and `inside` them at multiples of FlatParameters::run.
  Shards(const FlatParameters& parameters, int size, bool inside) {
    for (const FlatGroup& group : parameters.groups) {
      std::vector<std::int64_t>& cuts = cuts_.emplace_back();
      for (int rank = 0; rank < size; ++rank)
        cuts.push_back(nearest_cut(group, rank * group.values.numel() / size, inside));
      cuts.push_back(group.values.numel());
    }
  }

  /// Where rank `rank`'s part of group number `group` begins; the next rank's is its end.
  std::int64_t begin(std::size_t group, int rank) const { return cuts_[group][static_cast<std::size_t>(rank)]; }
  std::int64_t numel(std::size_t group, int rank) const { return begin(group, rank + 1) - begin(group, rank); }
  int num_ranks() const { return static_cast<int>(cuts_.front().size()) - 1; }

  /// The shard of rank `rank` as parameters of their own, on the same memory. It lists all parameters of `all`, in
  /// order; those of which it has nothing have 0 elements. Their gradients are undefined.
  FlatParameters shard(const FlatParameters& all, int rank) const {
    FlatParameters out;
    for (std::size_t g = 0; g < all.groups.size(); ++g) {
      const FlatGroup& group = all.groups[g];
      const std::int64_t first = begin(g, rank), last = begin(g, rank + 1);
      FlatGroup& own = out.groups.emplace_back(
          FlatGroup{.values = group.values.narrow(0, first, last - first), .decay = group.decay});
      for (const FlatSlice& slice : group.slices) {
        const std::int64_t from = std::max(first, slice.begin), to = std::min(last, slice.begin + slice.numel);
        FlatSlice part = slice;
        part.numel = std::max<std::int64_t>(0, to - from);
        part.num_elsewhere = slice.numel - part.numel;
        part.begin = part.numel > 0 ? from - first : 0;
        part.offset = part.numel > 0 ? from - slice.begin : 0;
        if (part.num_elsewhere > 0 || slice.sizes.empty()) part.sizes = {part.numel};
        part.parameter = part.view(own.values);
        own.slices.push_back(std::move(part));
      }
    }
    return out;
  }

  /// Every rank's values become those of all shards.
  void gather_values(const FlatParameters& all, const World& world) const {
    std::vector<Pending> pending;
    for (std::size_t g = 0; g < all.groups.size(); ++g)
      for (int rank = 0; rank < world.size; ++rank)
        if (numel(g, rank) > 0)
          pending.push_back(world.broadcast(all.groups[g].values.narrow(0, begin(g, rank), numel(g, rank)), rank));
    for (Pending& each : pending) each.wait();
  }

 private:
  static std::int64_t nearest_cut(const FlatGroup& group, std::int64_t target, bool inside) {
    std::int64_t before = 0, after = group.values.numel();
    for (const FlatSlice& slice : group.slices) {
      if (slice.begin > target) {
        after = std::min(after, slice.begin);
        break;
      }
      before = slice.begin;
      if (!inside) continue;
      const std::int64_t runs = (target - slice.begin) / FlatParameters::run * FlatParameters::run;
      if (runs < slice.numel) before += runs;
      if (runs + FlatParameters::run < slice.numel) after = slice.begin + runs + FlatParameters::run;
    }
    return target - before <= after - target ? before : after;
  }

  std::vector<std::vector<std::int64_t>> cuts_;  ///< of each group
};

}  // namespace kto
