// SPDX-License-Identifier: Apache-2.0
// One rendering of a chat template: its memory, limits and clock. Values live in the arena and are freed all at once,
// so they are plain 16-byte words, closures may point anywhere, and a rendering makes few allocations.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <memory>
#include <new>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "kto/core/error.hpp"

namespace kto {

/// The limits of one rendering. A template that exceeds them is broken or hostile, and ends with an Error.
struct TemplateLimits {
  /// Iterations of all loops and generators, comparisons, and one step per 16 bytes of text processed.
  std::int64_t steps = 20'000'000;
  int depth = 1500;                      ///< nested evaluations: expressions, blocks, calls (5 each), containers
  std::size_t output_bytes = 64 << 20;   ///< length of any one string, including the output
  std::size_t memory_bytes = 256 << 20;  ///< all values created while rendering
};

namespace jinja {

/// A bump allocator: memory is handed out in order and freed as a whole.
class Arena {
 public:
  explicit Arena(std::size_t limit) : limit_(limit) {}

  void* take(std::size_t size) {
    size = (size + 15) & ~std::size_t{15};
    if (size > free_) grow(size);
    std::byte* taken = next_;
    next_ += size;
    free_ -= size;
    return taken;
  }

  /// `count` value-initialised elements.
  template <class T>
  std::span<T> array(std::size_t count) {
    static_assert(std::is_trivially_destructible_v<T>);
    T* first = static_cast<T*>(take(count * sizeof(T)));
    std::uninitialized_value_construct_n(first, count);
    return {first, count};
  }

  template <class T>
  T* make(T value) {
    static_assert(std::is_trivially_destructible_v<T>);
    return new (take(sizeof(T))) T(std::move(value));
  }

  template <class T>
  std::span<const T> keep(const std::vector<T>& items) {
    if (items.empty()) return {};
    T* first = static_cast<T*>(take(items.size() * sizeof(T)));
    std::uninitialized_copy(items.begin(), items.end(), first);
    return {first, items.size()};
  }

  std::string_view keep(std::string_view text) {
    if (text.empty()) return {};
    char* copy = static_cast<char*>(take(text.size()));
    std::memcpy(copy, text.data(), text.size());
    return {copy, text.size()};
  }

 private:
  void grow(std::size_t size) {
    const std::size_t chunk = std::max(size, next_chunk_);
    check(chunk <= limit_ - used_, "the template needs more than ", limit_ >> 20, " MiB of memory");
    chunks_.push_back(std::make_unique_for_overwrite<std::byte[]>(chunk));
    used_ += chunk;
    next_ = chunks_.back().get();
    free_ = chunk;
    next_chunk_ = std::min<std::size_t>(next_chunk_ * 2, 1 << 20);
  }

  std::size_t limit_;
  std::size_t used_ = 0;
  std::size_t next_chunk_ = 16 << 10;
  std::byte* next_ = nullptr;
  std::size_t free_ = 0;
  std::vector<std::unique_ptr<std::byte[]>> chunks_;
};

struct Run {
  explicit Run(const TemplateLimits& limits_in = {}, std::time_t now_in = 0)
      : arena(limits_in.memory_bytes), limits(limits_in), now(now_in) {}

  /// Counts iterations and comparisons; too many are an Error.
  void step(std::int64_t count = 1) {
    steps += count;
    check(steps <= limits.steps, "the template takes more than ", limits.steps, " steps; does a loop run too often?");
  }

  /// Counts the steps of processing a string.
  void read(std::size_t bytes) { step(static_cast<std::int64_t>(bytes / 16)); }

  void check_length(std::size_t bytes) const {
    check(bytes <= limits.output_bytes, "the template makes a string of more than ", limits.output_bytes >> 20, " MiB");
  }

  Arena arena;
  TemplateLimits limits;
  std::time_t now;
  std::int64_t steps = 0;
  int depth = 0;
};

/// Held during an evaluation, so that deep recursion ends with an Error instead of a stack overflow.
class Nested {
 public:
  explicit Nested(Run& run, int levels = 1) : run_(run), levels_(levels) {
    check(run.depth + levels <= run.limits.depth, "the template nests deeper than ", run.limits.depth, " levels");
    run.depth += levels;
  }
  Nested(const Nested&) = delete;
  Nested& operator=(const Nested&) = delete;
  ~Nested() { run_.depth -= levels_; }

 private:
  Run& run_;
  int levels_;
};

}  // namespace jinja
}  // namespace kto
