// SPDX-License-Identifier: Apache-2.0
// The arena of tensors: blocks never overlap, come back joined, and the range does not grow once it has what a step
// needs.
#include "catch.hpp"
#include "kto/core/arena.hpp"

#if defined(__linux__)
#include <random>
#include <thread>
#include <vector>

namespace kto::test::test_arena {
namespace {

constexpr std::size_t page = detail::BlockRange::page;

TEST_CASE("the arena gives the smallest block that is large enough, and joins neighbours", "[arena]") {
  detail::BlockRange range(1 << 20);
  void *a = range.take(3 * page), *b = range.take(page), *c = range.take(2 * page), *d = range.take(page);
  CHECK(range.extent() == 7 * page);
  range.give_back(a);
  range.give_back(c);
  CHECK(range.take(page + 1) == c);  // two pages: the closer fit
  CHECK(range.take(page) == a);      // the beginning of three
  range.give_back(a);
  range.give_back(b);
  CHECK(range.take(4 * page) == a);  // a and b in one
  range.give_back(d);
  CHECK(range.take(3 * page) == d);  // a free end is built on
  CHECK(range.extent() == 9 * page);
  CHECK(range.take(2 << 20) == nullptr);
  CHECK(range.extent() == 9 * page);
  CHECK(detail::BlockRange(std::size_t{1} << 62).take(1) == nullptr);
}

TEST_CASE("blocks of the arena never overlap, and in the end all is one again", "[arena]") {
  detail::BlockRange range(std::size_t{1} << 30);
  std::mt19937 random(1);
  std::map<char*, std::size_t> live;
  for (int i = 0; i < 4000; ++i) {
    if (live.size() > 40 || (!live.empty() && random() % 2 == 0)) {
      const auto block = std::next(live.begin(), static_cast<std::ptrdiff_t>(random() % live.size()));
      CHECK(*block->first == static_cast<char>(block->second));
      range.give_back(block->first);
      live.erase(block);
    } else {
      const std::size_t bytes = 1 + random() % (100 * page);
      auto* block = static_cast<char*>(range.take(bytes));
      REQUIRE(range.holds(block));
      const auto after = live.lower_bound(block);
      if (after != live.end()) CHECK(block + bytes <= after->first);
      if (after != live.begin()) CHECK(std::prev(after)->first + std::prev(after)->second <= block);
      *block = static_cast<char>(bytes);
      live[block] = bytes;
    }
  }
  const std::size_t extent = range.extent();
  for (const auto& [block, bytes] : live) range.give_back(block);
  CHECK(range.take(extent) != nullptr);
  CHECK(range.extent() == extent);
}

TEST_CASE("the arena serves large tensors in any thread, LibTorch's own allocator small ones", "[arena]") {
  auto& arena = detail::ArenaAllocator::instance();
  at::DataPtr small = arena.allocate(100), large = arena.allocate(1 << 20), none = arena.allocate(0);
  std::memset(large.get(), 1, 1 << 20);
  std::memset(small.get(), 1, 100);
  void* place = large.get();
  std::thread([block = std::move(large)]() mutable { block.clear(); }).join();
  CHECK(arena.allocate(1 << 20).get() == place);
  void* raw = arena.raw_allocate(1 << 20);
  CHECK(raw == place);
  arena.raw_deallocate(raw);
}

}  // namespace
}  // namespace kto::test::test_arena
#endif
