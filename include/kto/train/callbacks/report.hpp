// SPDX-License-Identifier: Apache-2.0
// Callbacks that write the log during a run: as JSON Lines, or for TensorBoard.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "kto/io/event_file.hpp"
#include "kto/train/callbacks.hpp"

namespace kto {

/// Appends each log entry to `path` as a line of JSON, starting with `run_name` unless that is empty.
inline Callback report_jsonl(const fs::path& path, const std::string& run_name = "") {
  Callback out;
  const auto file = std::make_shared<std::optional<FileHandle>>();
  out.on_train_begin = [file, path](const TrainerState&, const Plan&) {
    file->emplace(path, O_WRONLY | O_CREAT | O_APPEND);
  };
  out.on_log = [file, path, run_name](const TrainerState&, const Json& entry, Control&) {
    Json line = Json::object();
    if (!run_name.empty()) line["run_name"] = run_name;
    line.update(entry);
    append(**file, path, line.dump() + "\n");
  };
  return out;
}

/// The name of a log entry's number in TensorBoard and trackers, as in transformers: train/loss, eval/loss.
inline std::string reported_name(const std::string& key) {
  return key.starts_with("eval_") ? "eval/" + key.substr(5) : "train/" + key;
}

/// Writes each number of a log entry into an event file in `folder`, under transformers' names (train/loss, eval/loss),
/// and `settings` as text.
inline Callback report_tensorboard(const fs::path& folder, const Json& settings = Json::object()) {
  Callback out;
  const auto file = std::make_shared<EventFile>(folder);
  if (!settings.empty()) file->add_text("args", "```\n" + settings.dump(2) + "\n```", 0);
  out.on_log = [file](const TrainerState& state, const Json& entry, Control&) {
    for (const auto& [key, value] : entry.items())
      if (value.is_number() && key != "step")
        file->add_scalar(reported_name(key), value.get<double>(), state.global_step);
  };
  return out;
}

}  // namespace kto
