// SPDX-License-Identifier: Apache-2.0
// Batches in order, collated ahead of time by threads (dataloader_num_workers). The batches and their order do not
// depend on the number of threads.
#pragma once

#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "kto/collate/concept.hpp"
#include "kto/train/feed/loader.hpp"

namespace kto {

/// Collates `picks` in order. `collator` and `picks` must outlive it.
template <class Collator>
class BatchSource {
 public:
  /// Without workers, batches are made on demand. Each worker is at most `prefetch_factor` batches ahead.
  BatchSource(const Collator& collator, std::span<const Picks> picks, bool with_kl, std::int64_t num_workers,
              std::int64_t prefetch_factor = 2)
      : collator_(collator),
        picks_(picks),
        with_kl_(with_kl),
        made_(static_cast<std::size_t>(num_workers * prefetch_factor)) {
    try {
      for (std::int64_t i = 0; i < num_workers; ++i) workers_.emplace_back([this] { work(); });
    } catch (...) {  // no more threads available: stop those already started
      stop();
      throw;
    }
  }
  BatchSource(const BatchSource&) = delete;
  BatchSource& operator=(const BatchSource&) = delete;
  ~BatchSource() { stop(); }

  /// The next batch. Rethrows the collator's exception for it.
  Batch next() {
    if (workers_.empty()) return collator_(picks_[num_taken_++], with_kl_);
    std::unique_lock lock(mutex_);
    std::optional<Made>& place = place_of(num_taken_);
    changed_.wait(lock, [&] { return place.has_value(); });
    Made made = *std::exchange(place, std::nullopt);
    ++num_taken_;
    changed_.notify_all();
    if (made.failure) std::rethrow_exception(made.failure);
    return std::move(made.batch);
  }

 private:
  struct Made {
    Batch batch = {};
    std::exception_ptr failure = {};
  };

  void stop() {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    changed_.notify_all();
  }
  std::optional<Made>& place_of(std::size_t i) { return made_[i % made_.size()]; }

  void work() {
    for (;;) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock,
                    [&] { return stopped_ || num_begun_ == picks_.size() || num_begun_ < num_taken_ + made_.size(); });
      if (stopped_ || num_begun_ == picks_.size()) return;
      const std::size_t i = num_begun_++;
      lock.unlock();
      Made made;
      try {
        made.batch = collator_(picks_[i], with_kl_);
      } catch (...) {
        made.failure = std::current_exception();
      }
      lock.lock();
      place_of(i) = std::move(made);  // must not allocate: an exception here would end the program
      changed_.notify_all();
    }
  }

  const Collator& collator_;
  std::span<const Picks> picks_;
  bool with_kl_;
  std::size_t num_taken_ = 0, num_begun_ = 0;
  bool stopped_ = false;
  std::vector<std::optional<Made>> made_;  // batches made ahead, batch i at i % size
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::jthread> workers_;  // last, so that they are joined before what they use is destroyed
};

}  // namespace kto
