// SPDX-License-Identifier: Apache-2.0
// What experiment trackers receive about a run, as from transformers' callbacks: names, identity, sample replies as
// tables. A tracker that fails is dropped with one note; the run goes on.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <ctime>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/core/environment.hpp"
#include "kto/io/atomic_file.hpp"
#include "kto/train/callbacks/report.hpp"

namespace kto {

/// A run as trackers know it.
struct TrackedRun {
  fs::path folder;                                    ///< output folder; a resumed run finds its identity there
  std::string project = "huggingface";                ///< the run is one of its runs
  std::string name;                                   ///< of the run
  Json config = Json::object();                       ///< the run's settings
  std::function<void(const std::string&)> note = {};  ///< hears what the user should know
};

/// What makes a run the same run for a tracker.
struct TrackerIdentity {
  std::string id;            ///< letters and digits
  std::int64_t created = 0;  ///< seconds since 1970
};

namespace detail {

/// Eight random letters and digits.
inline std::string random_id() {
  constexpr std::string_view digits = "0123456789abcdefghijklmnopqrstuvwxyz";
  std::random_device random;
  std::uniform_int_distribution<std::size_t> draw(0, digits.size() - 1);
  std::string out;
  for (int i = 0; i < 8; ++i) out += digits[draw(random)];
  return out;
}

/// The identity of a new run, written to `file`, or of a resumed run, read from there.
inline TrackerIdentity tracker_identity(const fs::path& file, bool resumes) {
  if (std::error_code none; resumes && fs::is_regular_file(file, none)) {
    const Json kept = read_json(file);
    TrackerIdentity out{json_value<std::string>(kept, "id", "", file.string()),
                        json_value<std::int64_t>(kept, "created", 0, file.string())};
    if (!out.id.empty()) return out;
  }
  const TrackerIdentity out{.id = random_id(), .created = std::time(nullptr)};
  write_file(file, Json{{"id", out.id}, {"created", out.created}}.dump() + "\n");
  return out;
}

/// Numbers that transformers' callbacks report once for the run and not as a curve.
inline bool is_run_total(std::string_view key) {
  static constexpr std::array names{"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss",
                                    "total_flos"};
  return std::ranges::find(names, key) != names.end();
}

/// The numbers of a log entry under trackers' names, without run totals.
inline Json tracked_numbers(const Json& entry) {
  Json out = Json::object();
  for (const auto& [key, value] : entry.items())
    if (value.is_number() && key != "step" && !is_run_total(key)) out[reported_name(key)] = value;
  out["train/global_step"] = json_value<std::int64_t>(entry, "step", 0, "log entry");
  return out;
}

/// Calls visit(name, list of {"prompt", "policy", "reference"}) for the sample replies of a log entry.
template <class Visit>
void visit_samples(const Json& entry, const Visit& visit) {
  for (const auto& [key, value] : entry.items())
    if (key.ends_with("samples") && value.is_array() && !value.empty()) visit(reported_name(key), value);
}

/// Reports a run to `tracker`, which has begin(state), log(entry, its number in the log) and end(); they may throw. A
/// resumed run reports its earlier entries again, for trackers that did not get them.
template <class Tracker>
Callback tracked(std::string name, std::shared_ptr<Tracker> tracker, std::function<void(const std::string&)> note) {
  const auto safely = [name = std::move(name), note = std::move(note),
                       failed = std::make_shared<bool>(false)](const auto& act) {
    if (*failed) return;
    try {
      act();
    } catch (const std::exception& error) {
      *failed = true;
      if (note) note(concat("report_to ", name, ": ", error_text(error), "; the run goes on without it"));
    }
  };
  Callback out;
  out.on_train_begin = [safely, tracker](const TrainerState& state, const Plan&) {
    safely([&] {
      tracker->begin(state);
      for (std::size_t i = 0; i < state.log_history.size(); ++i) tracker->log(state.log_history[i], i);
    });
  };
  out.on_log = [safely, tracker](const TrainerState& state, const Json& entry, Control&) {
    safely([&] { tracker->log(entry, state.log_history.size()); });
  };
  out.on_train_end = [safely, tracker](const TrainerState&) { safely([&] { tracker->end(); }); };
  return out;
}

}  // namespace detail

}  // namespace kto
