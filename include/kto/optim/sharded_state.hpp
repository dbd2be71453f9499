// SPDX-License-Identifier: Apache-2.0
// An optimizer's state in shards, which is whole in a checkpoint: tensors of one name on several ranks are parts of one
// tensor, in the order of the ranks; scalars and everything that is no tensor are the same on all.
#pragma once

#include <cstdint>
#include <exception>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "kto/dist/world.hpp"
#include "kto/io/state.hpp"

namespace kto {

class ShardedState {
 public:
  /// All ranks call it; `own` is this one's state, whose tensors keep their sizes.
  ShardedState(const World& world, const SavedState& own) : world_(world) {
    Json sizes = Json::array();
    for (const auto& [name, tensor] : own.tensors)
      if (tensor.dim() > 0) sizes.push_back({name, static_cast<int>(tensor.scalar_type()), tensor.sizes().vec()});
    int rank = 0;
    for (const std::string& text : world_.gather(sizes.dump())) {
      for (const Json& each : Json::parse(text)) {
        const auto shape = each[2].get<std::vector<std::int64_t>>();
        const std::int64_t numel = c10::multiply_integers(shape);
        if (numel == 0) continue;
        Whole& whole = wholes_[each[0].get<std::string>()];
        whole.type = static_cast<at::ScalarType>(each[1].get<int>());
        whole.parts.push_back({.rank = rank, .begin = whole.numel, .numel = numel});
        whole.numel += numel;
        whole.sizes = whole.parts.size() == 1 ? shape : std::vector{whole.numel};
      }
      ++rank;
    }
  }

  /// The whole state, for rank 0 to write: tensors without memory, which are fetched one by one. Meanwhile other ranks
  /// are in serve(). `own` is this rank's state, now.
  SavedState whole(SavedState own) {
    own_.clear();
    for (auto& [name, tensor] : own.tensors) own_.emplace(name, tensor);
    SavedState out{.tensors = {}, .values = std::move(own.values)};
    for (const auto& [name, tensor] : own.tensors)
      if (tensor.dim() == 0) out.tensors.emplace_back(name, tensor);
    for (const auto& [name, whole] : wholes_)
      out.tensors.emplace_back(name, at::empty(whole.sizes, at::TensorOptions(at::kMeta).dtype(whole.type)));
    out.fetch = [this](const std::string& name) { return fetch(name); };
    return out;
  }

  /// Runs `write` on rank 0, which may fetch the tensors of whole(). Throws on all ranks if it throws.
  template <class Write>
  void write_on_first(const Write& write) {
    together(world_, [&] {
      if (!world_.is_first()) return serve();
      std::exception_ptr thrown;
      try {
        write();
      } catch (...) {
        thrown = std::current_exception();
      }
      (void)world_.broadcast(std::string());  // the end of serve()
      if (thrown) std::rethrow_exception(thrown);
    });
    own_.clear();
  }

  /// This rank's part of `stored`, the whole tensor `name`, flat; undefined if it has none. A scalar is whole.
  /// Throws Error if it has another number of elements.
  Tensor own_part(const std::string& name, const Tensor& stored) const {
    if (stored.dim() == 0 && !wholes_.contains(name)) return stored;
    const auto found = wholes_.find(name);
    if (found == wholes_.end()) return {};
    check(found->second.numel == stored.numel(), name, " has ", stored.numel(), " elements, expected ",
          found->second.numel);
    for (const auto& [rank, begin, numel] : found->second.parts)
      if (rank == world_.rank) return stored.reshape(-1).narrow(0, begin, numel);
    return {};
  }

 private:
  struct Part {
    int rank;
    std::int64_t begin, numel;
  };
  struct Whole {
    at::ScalarType type = at::kFloat;
    std::int64_t numel = 0;
    std::vector<std::int64_t> sizes = {};  ///< [numel] if several ranks have parts of it
    std::vector<Part> parts = {};
  };

  Tensor fetch(const std::string& name) {
    (void)world_.broadcast(name);
    return receive(name);
  }

  void serve() {
    for (std::string name = world_.broadcast(std::string()); !name.empty(); name = world_.broadcast(std::string()))
      (void)receive(name);
  }

  /// All ranks call it; rank 0 gets the whole tensor.
  Tensor receive(const std::string& name) const {
    const Whole& whole = wholes_.at(name);
    const auto own = own_.find(name);
    Tensor out = world_.is_first() ? at::empty({whole.numel}, whole.type) : Tensor();
    for (const auto& [rank, begin, numel] : whole.parts) {
      if (rank == 0 && !world_.is_first()) continue;
      Tensor part = rank == world_.rank ? own->second.reshape(-1).cpu() : at::empty({numel}, whole.type);
      if (rank != 0) world_.broadcast(part, rank).wait();
      if (world_.is_first()) out.narrow(0, begin, numel).copy_(part);
    }
    return world_.is_first() ? out.view(whole.sizes) : out;
  }

  World world_;
  std::map<std::string, Whole> wholes_;     ///< all tensors but scalars
  std::map<std::string, Tensor> own_ = {};  ///< while rank 0 writes
};

}  // namespace kto
