// SPDX-License-Identifier: Apache-2.0
// The merges of byte-pair encoding: pairs of ids, their rank and their result.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace kto::tok {

struct Merge {
  std::uint32_t rank = 0;    ///< lower goes first
  std::int32_t result = -1;  ///< -1: the pair does not merge
};

class MergeTable {
 public:
  explicit MergeTable(std::size_t num_merges = 0) {
    std::size_t size = 16;
    while (size < 2 * num_merges) size *= 2;
    slots_.resize(size);
  }

  void add(std::int32_t left, std::int32_t right, Merge merge) {
    find_slot(key(left, right)) = {key(left, right), merge};
  }

  Merge find(std::int32_t left, std::int32_t right) const {
    return const_cast<MergeTable*>(this)->find_slot(key(left, right)).merge;
  }

 private:
  struct Slot {
    std::uint64_t key = free;
    Merge merge;
  };
  static constexpr std::uint64_t free = ~std::uint64_t{0};

  static std::uint64_t key(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
  }

  Slot& find_slot(std::uint64_t key) {
    const std::size_t mask = slots_.size() - 1;
    std::uint64_t hash = key * 0x9E3779B97F4A7C15U;
    hash ^= hash >> 32;
    for (std::size_t at = hash & mask;; at = (at + 1) & mask)
      if (slots_[at].key == key || slots_[at].key == free) return slots_[at];
  }

  std::vector<Slot> slots_;
};

}  // namespace kto::tok
