// SPDX-License-Identifier: Apache-2.0
// The pool of threads that kernels share.

#include <mutex>
#include <numeric>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "catch.hpp"
#include "kto/core/parallel.hpp"

namespace test_parallel {
namespace {

/// Sets LibTorch's number of threads for the duration of a test.
struct Threads {
  explicit Threads(int wanted) { at::set_num_threads(wanted); }
  ~Threads() { at::set_num_threads(before); }
  int before = at::get_num_threads();
};

}  // namespace

TEST_CASE("work is shared out to as many threads as LibTorch has", "[parallel]") {
  const Threads threads(2);
  std::mutex mutex;
  std::set<std::thread::id> seen;
  std::multiset<std::int64_t> workers;
  kto::in_threads(2, [&](std::int64_t worker) {
    const std::lock_guard lock(mutex);
    seen.insert(std::this_thread::get_id());
    workers.insert(worker);
  });
  CHECK(seen.size() == 2);
  CHECK(workers == std::multiset<std::int64_t>{0, 1});
}

TEST_CASE("ranges cover everything once, in pieces of at least the grain", "[parallel]") {
  const Threads threads(3);
  for (const std::int64_t size : {0, 1, 2, 7, 100, 1001}) {
    std::vector<int> times(static_cast<std::size_t>(size));
    std::mutex mutex;
    std::vector<std::int64_t> pieces;
    kto::parallel_ranges(size, 4, [&](std::int64_t begin, std::int64_t end) {
      for (; begin < end; ++begin) ++times[static_cast<std::size_t>(begin)];
    });
    kto::parallel_ranges(size, 4, [&](std::int64_t begin, std::int64_t end) {
      const std::lock_guard lock(mutex);
      pieces.push_back(end - begin);
    });
    CHECK(times == std::vector<int>(static_cast<std::size_t>(size), 1));
    CHECK(std::accumulate(pieces.begin(), pieces.end(), std::int64_t{0}) == size);
    CHECK(pieces.size() == static_cast<std::size_t>(std::min<std::int64_t>(3, (size + 3) / 4)));
  }
}

TEST_CASE("tasks are each done once, also inside another parallel region", "[parallel]") {
  const Threads threads(2);
  std::vector<std::atomic<int>> times(100);
  kto::parallel_tasks(10, [&](std::int64_t outer) {
    kto::parallel_tasks(10, [&](std::int64_t inner) { ++times[static_cast<std::size_t>(outer * 10 + inner)]; });
  });
  for (const auto& time : times) CHECK(time == 1);
}

TEST_CASE("an error in a thread reaches the caller", "[parallel]") {
  const Threads threads(2);
  const auto fail = [](std::int64_t worker) {
    if (worker == 1) throw std::runtime_error("no");
  };
  CHECK_THROWS_AS(kto::in_threads(2, fail), std::runtime_error);
}

}  // namespace test_parallel
