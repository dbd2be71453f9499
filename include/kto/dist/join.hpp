// SPDX-License-Identifier: Apache-2.0
// From a place among the processes of a job to a World.
//
//   const kto::World world = kto::join_world();   // alone, unless torchrun, srun or mpirun started the program
#pragma once

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "kto/dist/c10d.hpp"
#include "kto/dist/place.hpp"

namespace kto {

/// Whether this build carries tensors between CUDA devices through NCCL.
inline constexpr bool has_nccl = detail::has_nccl;

/// How ranks are joined.
struct JoinOptions {
  std::chrono::seconds timeout = std::chrono::minutes(30);  ///< how long a rank waits for the others
  bool nccl = false;                                        ///< for tensors on CUDA: not through the host and Gloo
};

namespace detail {

inline std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

/// The cores that this process may use, as text.
inline std::string cores_text() {
  ::cpu_set_t cores;
  CPU_ZERO(&cores);
  std::string out;
  if (::sched_getaffinity(0, sizeof cores, &cores) == 0)
    for (int core = 0; core < CPU_SETSIZE; ++core)
      if (CPU_ISSET(core, &cores)) out += concat(core, ' ');
  return out;
}

/// Fills in which ranks are on this machine, unless the launcher said so.
inline void place_on_machine(World& world, const RankPlace& place) {
  const auto hosts = world.gather(host_name());
  const std::string& here = hosts[static_cast<std::size_t>(world.rank)];
  world.local_size = static_cast<int>(std::ranges::count(hosts, here));
  world.local_rank =
      place.local_rank.value_or(static_cast<int>(std::count(hosts.begin(), hosts.begin() + world.rank, here)));
}

}  // namespace detail

#ifdef KTO_HAS_C10D

/// The ranks of a job, which join one group, or after failures one after another.
class Job {
 public:
  /// Opens a connection to a store.
  using Connect = std::function<detail::C10dStore(bool first)>;

  /// In the store that `place` names.
  Job(const RankPlace& place, const JoinOptions& options)
      : Job(place, options, [place, timeout = options.timeout](bool first) {
          int port = place.port;
          return detail::connect_store(place.address, port, first && place.rank == 0 && !place.store_is_held, timeout);
        }) {}
  /// In a store of one's own, to which `connect` opens connections.
  Job(const RankPlace& place, const JoinOptions& options, Connect connect)
      : place_(place), options_(options), connect_(std::move(connect)) {
    if (place.size > 1) store_.emplace(below(connect_(/*first=*/true)));
  }

  /// The next group. Throws Error when ranks have not come within the timeout, RankError when some failed for good.
  World join() {
    if (!store_) return {};
    const int attempt = num_joined_++, rank = place_.rank, size = place_.size;
    meet(attempt);
    World world{.rank = rank, .size = size};
    const bool on_this_machine = place_.address == "127.0.0.1" || place_.address == "localhost";
    auto gloo =
        detail::make_gloo(store_->below(concat("gloo/", attempt)), rank, size, options_.timeout, on_this_machine);
    decltype(gloo) nccl;
    if (options_.nccl) nccl = detail::make_nccl(store_->below(concat("nccl/", attempt)), rank, size, options_.timeout);
    auto watch = std::make_unique<detail::Watch>(
        std::make_unique<detail::C10dStore>(below(connect_(/*first=*/false))),
        detail::Watch::Job{.rank = rank,
                           .size = size,
                           .attempt = attempt,
                           .store_holder = place_.store_is_held ? "the program that started the ranks" : "rank 0",
                           .reports_lost_store = rank == (place_.store_is_held ? 0 : 1),
                           .holds_store = rank == 0 && !place_.store_is_held});
    world.group = std::make_shared<detail::C10dGroup>(gloo, nccl, std::move(watch), rank, options_.timeout);
    detail::place_on_machine(world, place_);
    return world;
  }

 private:
  detail::C10dStore below(const detail::C10dStore& store) const {
    return store.below(detail::job_prefix(place_.restarts));
  }

  /// Returns when all ranks are there.
  void meet(int attempt) {
    const auto key = [&](int rank) { return concat("here/", attempt, '/', rank); };
    const auto end = std::chrono::steady_clock::now() + options_.timeout;
    store_->set(key(place_.rank), detail::host_name());
    for (int rank = 0; rank < place_.size;) {
      if (store_->get(key(rank))) {
        ++rank;
        continue;
      }
      if (const auto failure = detail::find_failure(*store_, attempt)) throw detail::rank_error(*failure);
      check(std::chrono::steady_clock::now() < end, "rank ", rank, " of ", place_.size, " has not come within ",
            options_.timeout.count(), " s (--ddp_timeout)");
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }

  RankPlace place_;
  JoinOptions options_;
  Connect connect_;
  std::optional<detail::C10dStore> store_;  ///< absent: one process on its own
  int num_joined_ = 0;
};

#else

class Job {
 public:
  Job(const RankPlace& place, const JoinOptions&) {
    if (place.size > 1)
      throw UsageError(concat(place.size,
                              " processes are started, and this LibTorch is built without c10d and Gloo, on ",
                              "which they work together: start one, or build with another LibTorch"));
  }
  World join() { return {}; }
};

#endif

/// Gives this rank its share of the threads that LibTorch would use on the same cores, unless OMP_NUM_THREADS says how
/// many each is to use.
inline void share_threads(const World& world) {
  if (world.alone() || std::getenv("OMP_NUM_THREADS")) return;
  const auto cores = world.gather(detail::host_name() + ' ' + detail::cores_text());
  const auto sharers = std::ranges::count(cores, cores[static_cast<std::size_t>(world.rank)]);
  at::set_num_threads(std::max(1, at::get_num_threads() / static_cast<int>(sharers)));
}

/// Lets the ranks that join know that this one will not, because of an error that `text` describes. Returns whether
/// this rank is to print it: another may have had the same.
inline bool report_absence([[maybe_unused]] const RankPlace& place, [[maybe_unused]] const std::string& text) {
  if (place.rank == 0 && !place.store_is_held) return true;
#ifdef KTO_HAS_C10D
  try {
    int port = place.port;
    detail::C10dStore store = detail::connect_store(place.address, port, /*holds=*/false, std::chrono::seconds(10))
                                  .below(detail::job_prefix(place.restarts));
    return detail::post_failure(store, /*attempt=*/0, {.rank = place.rank, .text = text});
  } catch (const std::exception&) {
    return false;  // rank 0 has ended, too
  }
#else
  return false;
#endif
}

/// The World that the environment describes.
inline World join_world(const JoinOptions& options = {}) { return Job(read_place(), options).join(); }

}  // namespace kto
