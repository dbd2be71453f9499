// SPDX-License-Identifier: Apache-2.0
// Memory for LibTorch's CPU tensors, requested from the system once: the next step reuses what this step frees. malloc
// would keep all large free blocks in one list, walk that list on each request, and let small objects split the blocks.
#pragma once

#include "kto/core/torch.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>

#include <map>
#include <mutex>
#include <set>
#include <unordered_map>
#include <utility>

namespace kto::detail {

/// Allocates from one reserved range of addresses: best fit, lowest address first among equals; freed neighbours are
/// joined. A page becomes memory when it is first written, and stays until release_free().
class BlockRange {
 public:
  static constexpr std::size_t page = 4096;

  /// Reserves `reserved` bytes of addresses. If the system refuses, the range is empty and every take() returns null.
  explicit BlockRange(std::size_t reserved) {
    void* start = ::mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return;
    ::madvise(start, reserved, MADV_HUGEPAGE);
    begin_ = end_ = static_cast<char*>(start);
    limit_ = begin_ + reserved;
  }

  bool holds(const void* block) const { return block >= begin_ && block < limit_; }
  /// Bytes from the first block to the highest end any block has had: an upper bound of the memory in use.
  std::size_t extent() const { return static_cast<std::size_t>(end_ - begin_); }

  void* take(std::size_t bytes) {
    bytes = (bytes + page - 1) / page * page;
    const auto fit = free_by_size_.lower_bound({bytes, nullptr});
    if (fit == free_by_size_.end()) return extend(bytes);
    const auto [size, block] = *fit;
    erase_free(free_.find(block));
    if (size > bytes) insert_free(block + bytes, size - bytes);
    taken_[block] = bytes;
    return block;
  }

  void give_back(void* address) {
    auto* block = static_cast<char*>(address);
    const auto taken = taken_.find(block);
    std::size_t size = taken->second;
    taken_.erase(taken);
    auto after = free_.lower_bound(block);
    if (after != free_.end() && block + size == after->first) {
      size += after->second;
      after = erase_free(after);
    }
    if (after != free_.begin())
      if (const auto before = std::prev(after); before->first + before->second == block) {
        block = before->first;
        size += before->second;
        erase_free(before);
      }
    insert_free(block, size);
  }

  /// Gives the memory of all free blocks back to the system; their addresses stay reserved.
  void release_free() {
    for (const auto& [block, size] : free_) ::madvise(block, size, MADV_DONTNEED);
  }

 private:
  using FreeBlocks = std::map<char*, std::size_t>;

  void* extend(std::size_t bytes) {
    char* block = end_;
    if (!free_.empty())  // a free block at the end is too small, but can be extended
      if (const auto last = std::prev(free_.end()); last->first + last->second == end_) block = last->first;
    if (static_cast<std::size_t>(limit_ - block) < bytes) return nullptr;
    if (block != end_) erase_free(std::prev(free_.end()));
    end_ = block + bytes;
    taken_[block] = bytes;
    return block;
  }
  FreeBlocks::iterator erase_free(FreeBlocks::iterator at) {
    free_by_size_.erase({at->second, at->first});
    return free_.erase(at);
  }
  void insert_free(char* block, std::size_t size) {
    free_[block] = size;
    free_by_size_.insert({size, block});
  }

  char *begin_ = nullptr, *end_ = nullptr, *limit_ = nullptr;
  FreeBlocks free_;
  std::set<std::pair<std::size_t, char*>> free_by_size_;
  std::unordered_map<const char*, std::size_t> taken_;
};

/// Serves blocks of `smallest` bytes or more from a BlockRange, smaller ones (and all of them once the range is used
/// up) from LibTorch's own allocator.
class ArenaAllocator final : public c10::Allocator {
 public:
  static constexpr std::size_t smallest = 64 << 10;

  at::DataPtr allocate(std::size_t bytes) override {
    if (bytes >= smallest) {
      const std::lock_guard lock(mutex_);
      if (void* block = range_.take(bytes)) return {block, block, &free_any, at::Device(at::kCPU)};
    }
    return small_.allocate(bytes);
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_any; }
  void copy_data(void* to, const void* from, std::size_t count) const override { default_copy_data(to, from, count); }

  /// Gives memory that no tensor holds back to the system.
  void release_free() {
    const std::lock_guard lock(mutex_);
    range_.release_free();
  }

  /// The process-wide instance. Never destroyed: tensors may outlive everything else.
  static ArenaAllocator& instance() {
    static auto* const allocator = new ArenaAllocator;
    return *allocator;
  }

 private:
  ArenaAllocator()
      : range_(4 * static_cast<std::size_t>(::sysconf(_SC_PHYS_PAGES)) *
               static_cast<std::size_t>(::sysconf(_SC_PAGESIZE))) {}

  static void free_any(void* block) {
    ArenaAllocator& self = instance();
    if (!self.range_.holds(block)) return self.small_.raw_deleter()(block);
    const std::lock_guard lock(self.mutex_);
    self.range_.give_back(block);
  }

  c10::Allocator& small_ = *c10::GetDefaultCPUAllocator();
  std::mutex mutex_;
  BlockRange range_;
};

}  // namespace kto::detail

#endif
