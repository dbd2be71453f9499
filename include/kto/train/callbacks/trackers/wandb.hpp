// SPDX-License-Identifier: Apache-2.0
// A callback that writes a run for Weights & Biases: an offline run folder, which `wandb sync` uploads.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <utility>

#include "kto/io/sha256.hpp"
#include "kto/io/wandb_file.hpp"
#include "kto/train/callbacks/trackers/tracker.hpp"

namespace kto {

namespace detail {

class WandbTracker {
 public:
  explicit WandbTracker(TrackedRun run) : run_(std::move(run)) {}
  WandbTracker(const WandbTracker&) = delete;
  WandbTracker& operator=(const WandbTracker&) = delete;
  ~WandbTracker() {
    try {
      if (file_) finish(1);
    } catch (const std::exception&) {  // the run has ended with an error of its own
    }
  }

  void begin(const TrainerState& state) {
    const auto [id, created] = tracker_identity(run_.folder / "wandb_run.json", state.global_step > 0);
    start_ = created;
    WandbRun run{.id = environment("WANDB_RUN_ID").value_or(id),
                 .project = environment("WANDB_PROJECT").value_or(run_.project),
                 .name = environment("WANDB_NAME").value_or(run_.name),
                 .entity = environment("WANDB_ENTITY").value_or(""),
                 .group = environment("WANDB_RUN_GROUP").value_or(""),
                 .job_type = environment("WANDB_JOB_TYPE").value_or(""),
                 .notes = environment("WANDB_NOTES").value_or(""),
                 .config = run_.config,
                 .start = created};
    std::istringstream tags(environment("WANDB_TAGS").value_or(""));
    for (std::string tag; std::getline(tags, tag, ',');) run.tags.push_back(tag);
    char time[32] = "";
    const std::time_t when = created;
    std::tm parts{};
    ::localtime_r(&when, &parts);
    (void)std::strftime(time, sizeof time, "%Y%m%d_%H%M%S", &parts);
    folder_ = fs::path(environment("WANDB_DIR").value_or(run_.folder.string())) / "wandb" /
              concat("offline-run-", time, '-', run.id);
    make_folder(folder_ / "files");
    const fs::path path = folder_ / concat("run-", run.id, ".wandb");
    std::error_code none;
    for (const char* mark : {".synced", ".syncstate"})  // of an upload, which is now behind
      fs::remove(path.string() + mark, none);
    file_.emplace(path, run, static_cast<std::int64_t>(state.log_history.size()));
  }

  void log(const Json& entry, std::size_t index) {
    if (!file_ || static_cast<std::int64_t>(index) < file_->num_history()) return;
    Json values = tracked_numbers(entry);
    visit_samples(entry, [&](const std::string& name, const Json& samples) { values[name] = table(name, samples); });
    const double now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    values["_timestamp"] = now;
    values["_runtime"] = now - static_cast<double>(start_);
    values["_step"] = file_->num_history();
    Json totals = values;
    for (const auto& [key, value] : entry.items())
      if (is_run_total(key)) totals[key] = value;
    file_->add_summary(totals);
    file_->add_history(values);
  }

  void end() {
    if (!file_) return;
    finish(0);
    if (run_.note) run_.note(concat("report_to wandb: to upload the run: wandb sync ", folder_.string()));
  }

 private:
  void finish(std::int64_t exit_code) {
    const std::int64_t seconds = std::time(nullptr) - start_;
    file_->add_summary({{"_wandb", {{"runtime", seconds}}}});
    file_->finish(exit_code, seconds);
    file_.reset();
  }

  /// Writes a table into the folder, and returns the value that refers to it.
  Json table(const std::string& name, const Json& samples) {
    Json columns = Json::array(), data = Json::array();
    for (const auto& [column, text] : samples[0].items()) columns.push_back(column);
    for (const Json& sample : samples) {
      Json row = Json::array();
      for (const Json& column : columns) row.push_back(sample.value(column.get<std::string>(), Json()));
      data.push_back(std::move(row));
    }
    const std::string text =
        python_json({{"columns", columns}, {"data", data}, {"ncols", columns.size()}, {"nrows", data.size()}});
    const std::string hash = sha256(text);
    const std::string path =
        concat("media/table/", name, '_', file_->num_history(), '_', hash.substr(0, 20), ".table.json");
    make_folder((folder_ / "files" / path).parent_path());
    write_file(folder_ / "files" / path, text);
    file_->add_file(path);
    return {{"_type", "table-file"}, {"sha256", hash},          {"size", text.size()},
            {"path", path},          {"ncols", columns.size()}, {"nrows", data.size()}};
  }

  TrackedRun run_;
  fs::path folder_;
  std::int64_t start_ = 0;
  std::optional<WandbFile> file_;
};

}  // namespace detail

/// Writes `run.folder`/wandb/offline-run-TIME-ID (or in WANDB_DIR), for `wandb sync`; nothing is sent. A resumed run goes
/// on in its folder. Environment variables of wandb that name the run are honoured.
inline Callback report_wandb(const TrackedRun& run) {
  return detail::tracked("wandb", std::make_shared<detail::WandbTracker>(run), run.note);
}

}  // namespace kto
