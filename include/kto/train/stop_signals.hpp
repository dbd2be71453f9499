// SPDX-License-Identifier: Apache-2.0
// SIGINT and SIGTERM in a training program: the first asks the run to finish its step, save and end; the second ends
// the program at once. A library does not choose for its user: a program makes one of these before it trains.
#pragma once

#include <unistd.h>

#include <csignal>

#include "kto/train/callbacks.hpp"

namespace kto {

class StopSignals {
 public:
  StopSignals() {
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
  }

  /// 128 + the signal's number, as shells report it; 0 while none has come.
  static int exit_status() { return signal_ == 0 ? 0 : 128 + signal_; }

  /// Give it to the trainer: it saves a checkpoint and ends the run after the step in which a signal came.
  static Callback callback() {
    Callback out;
    out.on_step_end = [](const TrainerState&, Control& control) {
      if (signal_ != 0) control.should_stop = control.should_save = control.interrupted = true;
    };
    return out;
  }

 private:
  static void receive(int number) {
    if (signal_ != 0) ::_exit(128 + number);
    signal_ = number;
    constexpr char text[] = "\nfinishing this step and saving; the same signal once more ends the program at once\n";
    [[maybe_unused]] const auto put = ::write(STDERR_FILENO, text, sizeof text - 1);
  }

  static inline volatile std::sig_atomic_t signal_ = 0;
  struct sigaction old_interrupt_{}, old_terminate_{};
};

}  // namespace kto
