// SPDX-License-Identifier: Apache-2.0
// A callback that shows the progress of a run: a bar with rate and time left on a terminal, plain lines elsewhere, and
// a line for each log entry.
#pragma once

#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>

#include "kto/core/terminal.hpp"
#include "kto/train/callbacks.hpp"

namespace kto {

namespace detail {

/// "1:02:03", "2:03".
inline std::string clock_text(double seconds) {
  const auto whole = std::lround(std::max(0.0, seconds));
  char text[32];
  if (whole >= 3600)
    std::snprintf(text, sizeof text, "%ld:%02ld:%02ld", whole / 3600, whole / 60 % 60, whole % 60);
  else
    std::snprintf(text, sizeof text, "%ld:%02ld", whole / 60, whole % 60);
  return text;
}

/// A log entry on one line: {'loss': 0.5, 'kl': 0.0748, ...}.
inline std::string entry_text(const Json& entry) {
  std::string out = "{";
  for (const auto& [key, value] : entry.items()) {
    if (value.is_array() || key.ends_with("_sum") || key.find("count/") != std::string::npos || key == "total_flos")
      continue;  // too long; trainer_state.json has them
    char number[32];
    if (value.is_number_float())
      std::snprintf(number, sizeof number, "%.4g", value.get<double>());
    else
      std::snprintf(number, sizeof number, "%s", value.dump().c_str());
    if (out.size() > 1) out += ", ";
    out += "'" + printable(key, /*one_line=*/true) + "': " + printable(number);
  }
  return out + "}";
}

/// The samples of an evaluation, one line each (line breaks as \\n); empty without samples.
inline std::string samples_text(const Json& entry) {
  std::string out;
  for (const auto& [key, samples] : entry.items())
    if (key.ends_with("samples") && samples.is_array())
      for (const Json& sample : samples)
        for (const char* name : {"prompt", "policy", "reference"})
          if (sample.contains(name)) {
            const std::string label = std::string(out.empty() ? "" : "\n") + "  " + name + ":";
            out += label + std::string(15 - std::min<std::size_t>(label.size(), 14), ' ');
            out += printable(sample[name].dump(-1, ' ', false, Json::error_handler_t::replace));
          }
  return out;
}

class ProgressBar {
 public:
  ProgressBar(std::FILE* stream, bool bar) : stream_(stream), on_terminal_(bar && ::isatty(::fileno(stream)) != 0) {}

  void restart() { start_ = std::chrono::steady_clock::now(); }

  /// Draws `done` of `total`; does nothing if the stream is not a terminal.
  void draw(const char* what, std::int64_t done, std::int64_t total, const std::string& after = "") {
    if (!on_terminal_ || total <= 0) return;
    constexpr int width = 28;
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    const double each = done > 0 ? seconds / static_cast<double>(done) : 0;
    const int filled = static_cast<int>(width * done / total);
    std::string bar(static_cast<std::size_t>(filled), '=');
    bar.resize(width, ' ');
    std::fprintf(stream_, "\r\033[K%s %3d%% [%s] %lld/%lld  %.2f s each, %s left%s", what,
                 static_cast<int>(100 * done / total), bar.c_str(), static_cast<long long>(done),
                 static_cast<long long>(total), each, clock_text(each * static_cast<double>(total - done)).c_str(),
                 after.c_str());
    std::fflush(stream_);
    drawn_ = true;
  }

  void clear() {
    if (drawn_) std::fputs("\r\033[K", stream_);
    drawn_ = false;
  }

  void line(const std::string& text) {
    clear();
    std::fprintf(stream_, "%s\n", text.c_str());
    std::fflush(stream_);
  }

 private:
  std::FILE* stream_;
  bool on_terminal_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace detail

/// Shows a run on `stream`; without `bar`, only log entries.
inline Callback show_progress(std::FILE* stream = stdout, bool bar = true) {
  struct Shown {
    detail::ProgressBar steps, evaluation;
    std::int64_t num_steps = 0;
    std::string latest = {};
  };
  auto shown = std::make_shared<Shown>(detail::ProgressBar(stream, bar), detail::ProgressBar(stream, bar));
  Callback out;
  out.on_train_begin = [shown](const TrainerState&, const Plan& plan) {
    shown->num_steps = plan.num_steps;
    shown->steps.restart();
  };
  out.on_step_end = [shown](const TrainerState& state, Control&) {
    shown->steps.draw("train", state.global_step, shown->num_steps, shown->latest);
  };
  out.on_log = [shown](const TrainerState&, const Json& entry, Control&) {
    shown->latest.clear();
    for (const char* key : {"loss", "rewards/margins", "kl"})
      if (entry.contains(key))
        shown->latest += concat("  ", key, " ", std::round(entry[key].get<double>() * 1e4) / 1e4);
    shown->evaluation.clear();
    shown->steps.line(detail::entry_text(entry));
    if (const std::string samples = detail::samples_text(entry); !samples.empty()) shown->steps.line(samples);
  };
  out.on_note = [shown](const std::string& text) { shown->steps.line("note: " + printable(text)); };
  out.on_evaluate_batch = [shown](std::int64_t done, std::int64_t total) {
    if (done == 1) shown->steps.clear();
    if (done <= 1) shown->evaluation.restart();
    shown->evaluation.draw("evaluate", done, total);
    if (done == total) shown->evaluation.clear();
  };
  return out;
}

}  // namespace kto
