// SPDX-License-Identifier: Apache-2.0
// Worlds of several ranks, which are threads of this process and meet in a file.

#include <exception>
#include <filesystem>
#include <thread>

#include "catch.hpp"
#include "kto/dist/join.hpp"

namespace test_world {
namespace {

using kto::World;
namespace fs = std::filesystem;

#ifdef KTO_HAS_C10D

/// A store's file for the duration of a test.
struct StoreFile {
  fs::path path =
      fs::temp_directory_path() / ("kto-store-" + std::to_string(::getpid()) + "-" + std::to_string(++num_made));
  StoreFile() { fs::remove(path); }
  ~StoreFile() { fs::remove(path); }
  static inline int num_made = 0;
};

kto::Job job_of(const StoreFile& file, int rank, int size, int seconds) {
  const kto::RankPlace place{.rank = rank, .size = size, .address = "127.0.0.1"};
  return kto::Job(place, {.timeout = std::chrono::seconds(seconds)},
                  [path = file.path.string()](bool) { return kto::detail::file_store(path); });
}

/// Calls body(rank) in a thread per rank, and throws what one of them threw.
template <class Body>
void in_ranks(int size, const Body& body) {
  std::vector<std::exception_ptr> thrown(static_cast<std::size_t>(size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      try {
        body(rank);
      } catch (...) {
        thrown[static_cast<std::size_t>(rank)] = std::current_exception();
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const auto& one : thrown)
    if (one) std::rethrow_exception(one);
}

/// Calls body(world) for each rank of a World of `size`. Catch2's assertions are not for several threads: `body` throws
/// where something is wrong.
template <class Body>
void in_world(int size, const Body& body) {
  const StoreFile file;
  in_ranks(size, [&](int rank) {
    kto::Job job = job_of(file, rank, size, /*seconds=*/60);
    body(job.join());
  });
}

void check_equal(const at::Tensor& found, const at::Tensor& expected, const char* call) {
  kto::check(at::equal(found, expected), call, " of ", found.scalar_type(), ": ", found, " is not ", expected);
}

/// Each call on a World, with values small enough to be exact in all types.
void check_calls(const World& world, at::ScalarType type) {
  const int w = world.size, r = world.rank;
  const auto row = [&](std::vector<double> values) { return at::tensor(values, at::kDouble).to(type); };
  const double total = w * (w + 1) / 2.0;

  at::Tensor sum = row({r + 1.0, 2.0 * r + 2.0, 1.0});
  world.all_reduce(sum).wait();
  check_equal(sum, row({total, 2 * total, 1.0 * w}), "all_reduce");
  at::Tensor most = row({r + 1.0, 3.0 - 0.0});
  world.all_reduce(most, kto::Reduction::max).wait();
  check_equal(most, row({1.0 * w, 3}), "all_reduce max");

  at::Tensor all = at::zeros({w, 2}, type), places = at::arange(w, at::kDouble).to(type);
  world.all_gather(all, row({1.0 * r, 7})).wait();
  check_equal(all, at::stack({places, at::full_like(places, 7)}, 1), "all_gather");
  all.zero_();
  all[r].fill_(r);
  world.all_gather(all, all[r]).wait();
  check_equal(all, at::stack({places, places}, 1), "all_gather in place");

  at::Tensor parts = at::stack({places + r, places}, 1).contiguous();  // of rank p: p + r, p
  const at::Tensor expected = row({w * r + total - w, 1.0 * w * r});
  at::Tensor part = at::zeros({2}, type);
  world.reduce_scatter(part, parts.clone()).wait();
  check_equal(part, expected, "reduce_scatter");
  world.reduce_scatter(parts[r], parts).wait();
  check_equal(parts[r], expected, "reduce_scatter in place");

  at::Tensor given = row({10.0 + r, 1});
  world.broadcast(given, w - 1).wait();
  check_equal(given, row({9.0 + w, 1}), "broadcast");
}

/// Work that ends between its first wait's timeout and the question whether it has ended.
struct LateWork : c10d::Work {
  int num_waits = 0;
  bool wait(std::chrono::milliseconds timeout) override {
    if (++num_waits > 1) return c10d::Work::wait(timeout);
    finish();
    throw std::runtime_error("Operation timed out!");
  }
};

TEST_CASE("a call that ends just after a turn of waiting has not failed") {
  LateWork work;
  kto::detail::wait_in_turns(work, [] { return false; });
  CHECK(work.num_waits == 2);
}

TEST_CASE("each call on a World, with each type", "[dist]") {
  const int size = GENERATE(2, 4);
  in_world(size, [&](const World& world) {
    kto::check(world.size == size && world.local_size == size && world.local_rank == world.rank, "places");
    for (const auto type : {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf, at::kLong, at::kByte})
      check_calls(world, type);
  });
}

TEST_CASE("values of the host are agreed on", "[dist]") {
  in_world(3, [](const World& world) {
    const int r = world.rank;
    kto::check(world.sum(r + 0.5) == 4.5 && world.max(std::int64_t{r} << 40) == std::int64_t{2} << 40, "sum, max");
    kto::check(world.min(r - 5) == -5 && world.any(r == 2) && !world.any(false) && !world.all(r != 1), "min, any, all");
    kto::check(world.sum(std::vector<double>{1.0 * r, 1}) == std::vector<double>{3, 3}, "sum of several");
    kto::check(world.gather(std::string(static_cast<std::size_t>(r), 'x')) == std::vector<std::string>{"", "x", "xx"},
               "gather");
    kto::check(world.gather("") == std::vector<std::string>(3), "gather of nothing");
    kto::check(world.broadcast(kto::concat("from ", r), 1) == "from 1" && world.broadcast(std::string()).empty(),
               "broadcast");
    world.barrier();
  });
}

TEST_CASE("calls that are under way end in any order of waiting", "[dist]") {
  in_world(2, [](const World& world) {
    std::vector<at::Tensor> tensors;
    std::vector<kto::Pending> pending;
    for (int i = 0; i < 20; ++i) {
      tensors.push_back(at::full({1000 * i + 1}, i + world.rank, at::kFloat));
      pending.push_back(world.all_reduce(tensors.back()));
    }
    for (int i = 20; i-- > 0;) {
      const auto at_i = static_cast<std::size_t>(i);
      pending[at_i].wait();
      pending[at_i].wait();
      check_equal(tensors[at_i], at::full_like(tensors[at_i], 2 * i + 1), "all_reduce");
    }
  });
}

/// The RankError that `body` throws, or why there is none.
template <class Body>
std::string rank_error_of(const Body& body, bool* reported = nullptr) {
  try {
    body();
  } catch (const kto::RankError& error) {
    if (reported) *reported = error.reported;
    return error.what();
  }
  return "no RankError";
}

TEST_CASE("an error of one rank reaches the others, which may join again", "[dist]") {
  const StoreFile file;
  std::string heard, heard_last;
  in_ranks(2, [&](int rank) {
    kto::Job job = job_of(file, rank, 2, 60);
    {
      const World world = job.join();
      if (rank == 1)
        world.fail("out of memory", /*may_retry=*/true);
      else
        heard = rank_error_of([&] { world.barrier(); });
    }
    const World again = job.join();
    kto::check(again.sum(1) == 2, "the second group works");
    if (rank == 0)
      again.fail("a bad row");
    else
      heard_last = rank_error_of([&] { again.barrier(); });
  });
  CHECK(heard == "rank 1: out of memory");
  CHECK(heard_last == "rank 0: a bad row");
}

TEST_CASE("a rank that is gone is named by one of the others", "[dist]") {
  const StoreFile file;
  std::string heard[3];
  bool reported[3] = {};
  in_ranks(3, [&](int rank) {
    std::optional<World> world = job_of(file, rank, 3, 60).join();
    world->barrier();
    if (rank == 1) return;  // its connections are closed
    bool at_first = false;
    (void)rank_error_of([&] { world->barrier(); }, &at_first);
    heard[rank] = rank_error_of([&] { world->barrier(); }, &reported[rank]);  // as work goes on that keeps its errors
    kto::check(reported[rank] == at_first, "who reports it");
  });
  CHECK(heard[0] == "rank 1 has ended or cannot be reached");
  CHECK(heard[2] == heard[0]);
  CHECK(reported[0] != reported[2]);
}

TEST_CASE("a rank that does not come is named after the timeout", "[dist]") {
  const StoreFile file;
  CHECK_THROWS_WITH(job_of(file, 0, 2, /*seconds=*/1).join(), KTO_CONTAINS("rank 1 of 2 has not come within 1 s"));
}

TEST_CASE("together() throws on all ranks, as itself on that where it was", "[dist]") {
  in_world(3, [](const World& world) {
    kto::together(world, [] {});
    std::string heard;
    try {
      kto::together(world, [&] { kto::check(world.rank != 1, "a full disk"); });
    } catch (const kto::Error& error) {
      heard = error.what();
    }
    kto::check(heard == (world.rank == 1 ? "a full disk" : "rank 1 failed"), heard);
    int num_run = 0;
    kto::on_first(world, [&] { ++num_run; });
    kto::check(num_run == (world.rank == 0 ? 1 : 0), "on_first");
    bool interrupted = false;
    try {
      kto::together(world, [&] {
        if (world.rank == 2) throw kto::Interrupted{};
      });
    } catch (const kto::Interrupted&) {
      interrupted = true;
    }
    kto::check(interrupted, "Interrupted reaches all");
  });
}

#endif

TEST_CASE("alone, calls leave what they are given", "[dist]") {
  const World world;
  at::Tensor tensor = at::arange(4, at::kFloat);
  const at::Tensor before = tensor.clone();
  world.all_reduce(tensor).wait();
  world.broadcast(tensor).wait();
  world.all_gather(tensor, tensor).wait();
  world.reduce_scatter(tensor, tensor).wait();
  CHECK(at::equal(tensor, before));
  at::Tensor out = at::zeros(4, at::kFloat);
  world.all_gather(out, tensor).wait();
  CHECK(at::equal(out, before));
  CHECK(world.sum(2.5) == 2.5);
  CHECK(world.any(true));
  CHECK(world.gather("a") == std::vector<std::string>{"a"});
  CHECK(world.broadcast(std::string("b")) == "b");
  CHECK_THROWS_WITH(world.all_gather(tensor, at::zeros({3}, at::kFloat)), KTO_CONTAINS("is not the size of 1 ranks'"));
}

}  // namespace
}  // namespace test_world
