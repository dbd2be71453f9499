// SPDX-License-Identifier: Apache-2.0
// What became of the other ranks. A thread of each rank writes its signs of life into the store and looks there for
// failures of others. Where a call failed and no rank says why, the rank without signs of life is at fault.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kto/core/error.hpp"
#include "kto/dist/store.hpp"

namespace kto::detail {

/// Why a job ends, or starts over. `rank` -1: no rank says so of itself.
struct Failure {
  int rank = -1;
  bool may_retry = false;
  std::string text = "";
};

inline std::string to_text(const Failure& failure) {
  return concat(failure.rank, ' ', failure.may_retry, ' ', failure.text);
}
inline Failure parse_failure(const std::string& text) {
  Failure out;
  std::istringstream in(text);
  in >> out.rank >> out.may_retry;
  in.get();
  std::getline(in, out.text, '\0');
  return out;
}

/// Before all keys of a job, which a launcher may have started over.
inline std::string job_prefix(int restarts) { return concat("kto/", restarts); }

/// One key per attempt for failures after which the ranks may join again, one for those that end the job.
inline std::string failure_key(int attempt, bool may_retry) {
  return may_retry ? concat("failed/", attempt) : std::string("failed");
}

inline std::string seen_key(int attempt, int rank) { return concat("seen/", attempt, '/', rank); }

/// The first failure of an attempt counts. Returns whether this is it, even where the store is lost meanwhile.
inline bool post_failure(Store& store, int attempt, const Failure& failure) {
  const std::string key = failure_key(attempt, failure.may_retry);
  if (store.add(key + "/count", 1) != 1) return false;
  try {
    store.set(key, to_text(failure));
  } catch (...) {
  }
  return true;
}

inline std::optional<Failure> find_failure(Store& store, int attempt) {
  for (const bool may_retry : {false, true})
    if (const auto text = store.get(failure_key(attempt, may_retry))) return parse_failure(*text);
  return std::nullopt;
}

class Watch {
 public:
  using Seconds = std::chrono::duration<double>;

  struct Job {
    int rank = 0, size = 1;
    int attempt = 0;                  ///< how often the ranks had joined before
    std::string store_holder = "";    ///< who is out of reach when the store is
    bool reports_lost_store = false;  ///< whether it falls to this rank to say so
    bool holds_store = false;
  };

  Watch(std::unique_ptr<Store> store, Job job) : job_(std::move(job)), shared_(std::make_shared<Shared>()) {
    shared_->store = std::move(store);
    shared_->beat = [key = concat("alive/", job_.attempt, '/', job_.rank), seen = seen_key(job_.attempt, job_.rank),
                     attempt = job_.attempt](Shared& shared) {
      shared.store->set(key, concat(++shared.num_beats));
      shared.look(attempt);
      if (shared.failed) shared.store->set(seen, "1");
    };
    thread_ = std::thread([shared = shared_] { shared->loop(); });
  }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
  /// A thread that waits for a store out of reach is left to itself.
  ~Watch() {
    {
      const std::lock_guard lock(shared_->mutex);
      shared_->ends = true;
    }
    shared_->changed.notify_one();
    if (shared_->ended.get_future().wait_for(Seconds(2)) == std::future_status::ready)
      thread_.join();
    else
      thread_.detach();
  }

  bool has_failed() const { return shared_->failed; }

  /// Lets the other ranks know why this one ends. Returns whether it is the first, or cannot know: two ranks that say
  /// so are better than none. Where the store ends with this process, waits a while for the others, but those that are
  /// `lost`, to see it.
  bool post(const Failure& failure, const std::vector<int>& lost = {}) {
    const bool is_first = ask([failure, job = job_](Shared& shared) {
                            const bool out = post_failure(*shared.store, job.attempt, failure);
                            shared.store->set(seen_key(job.attempt, job.rank), "1");
                            return out;
                          }).value_or(true);
    for (int turns = job_.holds_store ? 30 : 0; turns > 0 && !have_seen(lost); --turns)
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    return is_first;
  }

  /// Why a call failed, `why` where nothing else is known. `is_first`: this rank is to report it.
  Failure find_out(const std::string& why, bool& is_first) {
    is_first = false;
    if (auto failure = look_for(Seconds(2))) return *failure;
    const auto before = signs_of_life();
    if (auto failure = look_for(Seconds(3))) return *failure;
    const auto after = signs_of_life();
    if (!before || !after) {
      is_first = job_.reports_lost_store;
      return {.text = job_.store_holder + " has ended or cannot be reached"};
    }
    std::vector<int> lost;
    std::string names;
    for (int r = 0; r < job_.size; ++r)
      if (const auto i = static_cast<std::size_t>(r); r != job_.rank && (*before)[i] == (*after)[i]) {
        lost.push_back(r);
        names += concat(names.empty() ? "rank " : ", rank ", r);
      }
    const Failure failure{.text = lost.empty() ? why : names + " has ended or cannot be reached"};
    is_first = post(failure, lost);
    if (!is_first)
      if (auto other = look_for(Seconds(2))) return *other;
    return failure;
  }

 private:
  struct Shared {
    std::unique_ptr<Store> store;
    std::function<void(Shared&)> beat;
    std::atomic<bool> failed = false;
    std::mutex mutex;  // of what follows
    std::condition_variable changed;
    std::deque<std::function<void()>> tasks;
    std::optional<Failure> failure;
    bool ends = false;
    std::int64_t num_beats = 0;
    std::promise<void> ended;

    void look(int attempt) {
      if (failed) return;
      if (auto found = find_failure(*store, attempt)) {
        const std::lock_guard lock(mutex);
        failure = std::move(found);
        failed = true;
      }
    }
    void loop() {
      bool reaches_store = true;
      std::unique_lock lock(mutex);
      while (!ends) {
        lock.unlock();
        if (reaches_store) try {
            beat(*this);
          } catch (...) {
            reaches_store = false;
          }
        lock.lock();
        changed.wait_for(lock, Seconds(1), [&] { return ends || !tasks.empty(); });
        while (!tasks.empty()) {
          const auto task = std::move(tasks.front());
          tasks.pop_front();
          lock.unlock();
          task();
          lock.lock();
        }
      }
      ended.set_value();
    }
  };

  /// What `work` returns on the watch's thread; nothing when the store cannot be reached within 5 seconds.
  template <class Work>
  auto ask(Work work) -> std::optional<decltype(work(std::declval<Shared&>()))> {
    using Result = decltype(work(std::declval<Shared&>()));
    const auto task =
        std::make_shared<std::packaged_task<Result()>>([work, shared = shared_] { return work(*shared); });
    auto result = task->get_future();
    {
      const std::lock_guard lock(shared_->mutex);
      shared_->tasks.push_back([task] { (*task)(); });
    }
    shared_->changed.notify_one();
    if (result.wait_for(Seconds(5)) != std::future_status::ready) return std::nullopt;
    try {
      return result.get();
    } catch (...) {
      return std::nullopt;
    }
  }

  /// Whether all ranks but those that are `lost` know of a failure, or none is left to ask.
  bool have_seen(const std::vector<int>& lost) {
    return ask([job = job_, lost](Shared& shared) {
             for (int rank = 0; rank < job.size; ++rank)
               if (std::ranges::count(lost, rank) == 0 && !shared.store->get(seen_key(job.attempt, rank))) return false;
             return true;
           })
        .value_or(true);
  }

  std::optional<Failure> look_for(Seconds limit) {
    const auto end = std::chrono::steady_clock::now() + limit;
    do {
      if (!ask([attempt = job_.attempt](Shared& shared) { return shared.look(attempt), true; })) break;
      if (has_failed()) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    } while (std::chrono::steady_clock::now() < end);
    const std::lock_guard lock(shared_->mutex);
    return shared_->failure;
  }

  std::optional<std::vector<std::string>> signs_of_life() {
    return ask([size = job_.size, attempt = job_.attempt](Shared& shared) {
      std::vector<std::string> out;
      for (int r = 0; r < size; ++r) out.push_back(shared.store->get(concat("alive/", attempt, '/', r)).value_or(""));
      return out;
    });
  }

  Job job_;
  std::shared_ptr<Shared> shared_;
  std::thread thread_;
};

}  // namespace kto::detail
