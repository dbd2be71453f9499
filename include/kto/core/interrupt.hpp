// SPDX-License-Identifier: Apache-2.0
// Stops long work early. A signal handler requests it (train/callbacks/stop_signals.hpp), and every long loop checks
// for the request once per batch, block of a file, few rows or token. Without a request, a check costs one load.
#pragma once

#include <atomic>

namespace kto {

/// Thrown by work that was asked to stop. Not a std::exception: nothing is wrong, and code that turns errors into notes
/// must let it pass.
struct Interrupted {};

namespace detail {
inline std::atomic<bool> interrupt_asked = false;
static_assert(decltype(interrupt_asked)::is_always_lock_free, "a signal handler writes it");
inline thread_local int num_uninterrupted = 0;
}  // namespace detail

/// Asks the work of all threads to stop, or withdraws the request. A signal handler may call it.
inline void ask_to_stop(bool asked = true) { detail::interrupt_asked.store(asked, std::memory_order_relaxed); }

/// Whether the work of this thread was asked to stop.
inline bool is_interrupted() {
  return detail::interrupt_asked.load(std::memory_order_relaxed) && detail::num_uninterrupted == 0;
}

/// Throws Interrupted when work was asked to stop.
inline void check_interrupt() {
  if (is_interrupted()) throw Interrupted{};
}

/// While an instance lives, work of this thread is not interrupted: an update, a save. Other threads may still stop;
/// those that LibTorch runs backward passes on never check.
class Uninterrupted {
 public:
  Uninterrupted() { ++detail::num_uninterrupted; }
  Uninterrupted(const Uninterrupted&) = delete;
  Uninterrupted& operator=(const Uninterrupted&) = delete;
  ~Uninterrupted() { --detail::num_uninterrupted; }
};

}  // namespace kto
