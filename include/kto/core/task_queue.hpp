// SPDX-License-Identifier: Apache-2.0
// Work beside training on a thread of its own, one task after another: what is sent to servers.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "kto/core/error.hpp"
#include "kto/core/interrupt.hpp"

namespace kto {

/// Tasks that run one after another on a thread of their own, uninterrupted. After one that throws, the rest are dropped.
/// The destructor waits for all tasks.
class TaskQueue {
 public:
  TaskQueue() : thread_([this] { work(); }) {}
  TaskQueue(const TaskQueue&) = delete;
  TaskQueue& operator=(const TaskQueue&) = delete;
  ~TaskQueue() {
    {
      const std::lock_guard guard(mutex_);
      is_closed_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  /// Throws Error if an earlier task failed.
  void add(std::function<void()> task) {
    const std::lock_guard guard(mutex_);
    if (!failure_.empty()) fail(failure_);
    tasks_.push_back(std::move(task));
    changed_.notify_all();
  }
  /// Whether all tasks are done.
  bool is_idle() {
    const std::lock_guard guard(mutex_);
    return tasks_.empty() && !is_busy_;
  }
  /// Returns when all tasks are done. Throws Error if one failed.
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !failure_.empty() || (tasks_.empty() && !is_busy_); });
    if (!failure_.empty()) fail(failure_);
  }

 private:
  void work() {
    const Uninterrupted to_the_end;
    for (std::unique_lock lock(mutex_);;) {
      changed_.wait(lock, [&] { return is_closed_ || !tasks_.empty(); });
      if (tasks_.empty() || !failure_.empty()) return;
      const auto task = std::move(tasks_.front());
      tasks_.pop_front();
      is_busy_ = true;
      lock.unlock();
      std::string failure;
      try {
        task();
      } catch (const std::exception& error) {
        failure = error.what();
      }
      lock.lock();
      is_busy_ = false;
      failure_ = failure;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  std::string failure_;
  bool is_closed_ = false, is_busy_ = false;
  std::thread thread_;
};

}  // namespace kto
