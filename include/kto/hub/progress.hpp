// SPDX-License-Identifier: Apache-2.0
// How far a download is: a bar with rate and time left on a terminal, elsewhere a line now and then. On stderr.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <string>

#include "kto/core/error.hpp"

namespace kto::hub {

/// "1.2 GB", "340 kB".
inline std::string bytes_text(double bytes) {
  const char* unit = "B";
  for (const char* next : {"kB", "MB", "GB", "TB"})
    if (bytes >= 999.5) {
      bytes /= 1000;
      unit = next;
    }
  char text[32];
  std::snprintf(text, sizeof text, bytes < 9.95 && *unit != 'B' ? "%.1f %s" : "%.0f %s", bytes, unit);
  return text;
}

/// Shared by the threads of a download.
class Progress {
 public:
  /// Of `what`, which takes `total` bytes; with a bar if stderr is a terminal.
  Progress(std::string what, std::uint64_t total, bool shows_bar)
      : what_(std::move(what)), total_(total), is_bar_(shows_bar && ::isatty(STDERR_FILENO) != 0) {}
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() {
    if (drawn_) std::fputs("\r\033[K", stderr);
  }

  /// `bytes` more are there: received, or if not, found from an earlier download. Fewer than 0: some were bad.
  void add(std::int64_t bytes, bool received) {
    const std::lock_guard lock(mutex_);
    done_ += bytes;
    if (received) received_ += bytes;
    constexpr double bar_interval = 0.2, line_interval = 30;
    const double now = seconds();
    if (now - shown_ < (is_bar_ ? bar_interval : line_interval)) return;
    shown_ = now;
    show(now);
  }

  /// Since it was made.
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  /// Bytes that were received.
  std::int64_t received() const { return received_; }

 private:
  using Clock = std::chrono::steady_clock;

  void show(double now) {
    const double rate = static_cast<double>(received_) / std::max(now, 1e-3);
    const double done = static_cast<double>(std::max<std::int64_t>(done_, 0)), total = static_cast<double>(total_);
    std::string left;
    if (rate > 0) {
      const auto whole = static_cast<long>((total - done) / rate);
      char text[32];
      std::snprintf(text, sizeof text, ", %ld:%02ld left", whole / 60, whole % 60);
      left = text;
    }
    const std::string text = concat(bytes_text(done), " of ", bytes_text(total), "  ", bytes_text(rate), "/s", left);
    if (is_bar_) {
      constexpr std::size_t width = 28;
      std::string bar(std::min(width, static_cast<std::size_t>(width * done / std::max(total, 1.0))), '=');
      bar.resize(width, ' ');
      std::fprintf(stderr, "\r\033[K%s [%s] %s", what_.c_str(), bar.c_str(), text.c_str());
      std::fflush(stderr);
      drawn_ = true;
    } else {
      std::fprintf(stderr, "%s: %s\n", what_.c_str(), text.c_str());
    }
  }

  std::string what_;
  std::uint64_t total_;
  bool is_bar_, drawn_ = false;
  std::mutex mutex_;
  std::int64_t done_ = 0, received_ = 0;
  double shown_ = 0;
  Clock::time_point start_ = Clock::now();
};

}  // namespace kto::hub
