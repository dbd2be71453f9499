// SPDX-License-Identifier: Apache-2.0
// A callback that writes a run for Trackio: JSON Lines in the inbox of its folder, which its dashboard imports.
#pragma once

#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "kto/io/folder.hpp"
#include "kto/io/home.hpp"
#include "kto/train/callbacks/trackers/tracker.hpp"

namespace kto {

namespace detail {

/// TRACKIO_DIR, else trackio/ in Hugging Face's folder.
inline fs::path trackio_folder() {
  if (const auto folder = environment("TRACKIO_DIR")) return *folder;
  return hugging_face_home() / "trackio";
}

/// "2026-01-02T03:04:05.678901+00:00".
inline std::string utc_time(std::chrono::system_clock::time_point when) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(when);
  const auto micros = std::chrono::duration_cast<std::chrono::microseconds>(when.time_since_epoch()).count() % 1000000;
  std::tm parts{};
  ::gmtime_r(&seconds, &parts);
  char day[32] = "", out[48] = "";
  (void)std::strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &parts);
  std::snprintf(out, sizeof out, "%s.%06lld+00:00", day, static_cast<long long>(micros));
  return out;
}

class TrackioTracker {
 public:
  explicit TrackioTracker(TrackedRun run) : run_(std::move(run)) {}
  TrackioTracker(const TrackioTracker&) = delete;
  TrackioTracker& operator=(const TrackioTracker&) = delete;
  ~TrackioTracker() {
    try {
      flush();
    } catch (const std::exception&) {  // the run has ended with an error of its own
    }
  }

  void begin(const TrainerState& state) {
    identity_ = tracker_identity(run_.folder / "trackio_run.json", state.global_step > 0);
    folder_ = trackio_folder() / "inbox" / random_id();  // of this process alone
    is_first_ = true;
  }

  /// Entries that Trackio has already are ignored there: their log_id is the same.
  void log(const Json& entry, std::size_t index) {
    Json metrics = tracked_numbers(entry);
    for (auto& [name, value] : metrics.items())
      if (value.is_number_float() && !std::isfinite(value.get<double>()))
        value = std::isnan(value.get<double>()) ? "NaN" : value.get<double>() > 0 ? "Infinity" : "-Infinity";
    visit_samples(entry, [&](const std::string& name, const Json& samples) {
      metrics[name] = {{"_type", "trackio.table"}, {"_value", samples}};
    });
    Json config = nullptr;
    if (std::exchange(is_first_, false)) {
      config = run_.config;
      config["_Username"] = nullptr;
      config["_Created"] = utc_time(std::chrono::system_clock::from_time_t(identity_.created));
      config["_Group"] = nullptr;
    }
    const auto now = std::chrono::system_clock::now();
    const Json record = {{"v", 1},
                         {"kind", "metric"},
                         {"project", run_.project},
                         {"run", run_.name},
                         {"run_id", identity_.id},
                         {"metrics", metrics},
                         {"step", metrics["train/global_step"]},
                         {"timestamp", utc_time(now)},
                         {"config", config},
                         {"log_id", concat(identity_.id, '-', index)}};
    lines_ += record.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    if (now - flushed_ > std::chrono::seconds(5)) flush();
  }

  void end() { flush(); }

 private:
  /// Writes what has gathered as one file, whole, with a name that sorts last. Trackio removes files that it has
  /// imported, and then their folder.
  void flush() {
    if (lines_.empty()) return;
    char name[32];
    std::snprintf(name, sizeof name, "%08d.jsonl", num_files_);
    for (int tries = 0;; ++tries) try {
        make_folder(folder_);
        write_file(folder_ / name, lines_);
        break;
      } catch (const Error&) {
        if (tries == 2) throw;
      }
    ++num_files_;
    lines_.clear();
    flushed_ = std::chrono::system_clock::now();
  }

  TrackedRun run_;
  TrackerIdentity identity_;
  fs::path folder_;
  std::string lines_;
  std::chrono::system_clock::time_point flushed_ = {};
  int num_files_ = 0;
  bool is_first_ = true;
};

}  // namespace detail

/// Writes the log into the inbox of Trackio's folder on this machine; `trackio show` imports and shows it. A resumed run
/// goes on under its identity.
inline Callback report_trackio(const TrackedRun& run) {
  return detail::tracked("trackio", std::make_shared<detail::TrackioTracker>(run), run.note);
}

}  // namespace kto
