// SPDX-License-Identifier: Apache-2.0
// SIGINT and SIGTERM in a training program: the first requests a stop, the second ends the program at once. On the
// first a run finishes its step (or interrupts its evaluation), saves and returns (TrainerState::interrupted); other
// long work throws Interrupted. A library should not install handlers unasked, so the program creates one of these.
#pragma once

#include <unistd.h>

#include <atomic>
#include <csignal>

#include "kto/core/interrupt.hpp"

namespace kto {

class StopSignals {
 public:
  /// Without `says`, a stop is not announced: another process does that.
  explicit StopSignals(bool says = true) {
    says_ = says;
    struct sigaction action{};
    action.sa_handler = receive;
    ::sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    ::sigaction(SIGINT, &action, &old_interrupt_);
    ::sigaction(SIGTERM, &action, &old_terminate_);
  }
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  ~StopSignals() {
    ::sigaction(SIGINT, &old_interrupt_, nullptr);
    ::sigaction(SIGTERM, &old_terminate_, nullptr);
    signal_ = 0;
    ask_to_stop(false);
  }

  /// 128 + the signal's number, as shells report it; 0 before any signal.
  static int exit_status() { return signal_ == 0 ? 0 : 128 + signal_; }

 private:
  static void receive(int number) {
    if (signal_.exchange(number) != 0) ::_exit(128 + number);
    ask_to_stop();
    if (!says_) return;
    constexpr char text[] = "\nstopping after saving the trained state; a second signal ends the program at once\n";
    [[maybe_unused]] const auto put = ::write(STDERR_FILENO, text, sizeof text - 1);
  }

  static inline std::atomic<int> signal_ = 0;
  static inline std::atomic<bool> says_ = true;
  struct sigaction old_interrupt_{}, old_terminate_{};
};

}  // namespace kto
