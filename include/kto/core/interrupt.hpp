// SPDX-License-Identifier: Apache-2.0
// Stops long work early. A signal handler asks for it (train/callbacks/stop_signals.hpp), and every loop that may take
// long checks once per batch, block of a file, few rows or token. If nobody asks, a check is one load.
#pragma once

#include <atomic>

namespace kto {

/// Thrown out of work that was asked to stop. It is no std::exception: nothing is wrong, and what turns errors into
/// notes lets it pass.
struct Interrupted {};

namespace detail {
inline std::atomic<bool> interrupt_asked = false;
static_assert(decltype(interrupt_asked)::is_always_lock_free, "signal handlers write it");
inline thread_local int num_uninterrupted = 0;
}  // namespace detail

/// Asks all threads' work to stop, or takes that back. A signal handler may call it.
inline void ask_to_stop(bool asked = true) { detail::interrupt_asked.store(asked, std::memory_order_relaxed); }

/// Throws Interrupted when work was asked to stop.
inline void check_interrupt() {
  if (detail::interrupt_asked.load(std::memory_order_relaxed) && detail::num_uninterrupted == 0) throw Interrupted{};
}

/// While one lives, work of this thread goes on to its end: an update, a save.
class Uninterrupted {
 public:
  Uninterrupted() { ++detail::num_uninterrupted; }
  Uninterrupted(const Uninterrupted&) = delete;
  Uninterrupted& operator=(const Uninterrupted&) = delete;
  ~Uninterrupted() { --detail::num_uninterrupted; }
};

}  // namespace kto
