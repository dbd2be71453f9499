// SPDX-License-Identifier: Apache-2.0
// Keeps a repository on the hub in step with a run, as transformers' push_to_hub does: pushes what is saved in the
// background, and the trained model at the end. Training never waits for a push, and never ends because of one.
// In programs that link kto::hub.
#pragma once

#if defined(KTO_HAS_HUB)
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kto/core/task_queue.hpp"
#include "kto/hub/push.hpp"
#include "kto/hub/push_strategy.hpp"
#include "kto/train/callbacks.hpp"
#include "kto/train/checkpoint/names.hpp"

namespace kto::hub {

/// What a run pushes, where to, and when.
struct RunPush {
  Push push;                                         ///< to where; its message and ignored files are the run's own
  fs::path folder;                                   ///< the run's output folder
  PushStrategy strategy = PushStrategy::every_save;  ///< what is pushed, and when
  bool always = false;          ///< also while an earlier push is under way, which this one then follows
  bool saves_by_epoch = false;  ///< commit messages count epochs, not steps
  Note note = {};               ///< hears of pushes that are skipped, have failed, or are waited for
};

namespace detail {

/// Files of a run as they are now, to be uploaded while the run goes on and removes or changes its own: links to the
/// files of a checkpoint, which are never written to again, and copies of others.
class Snapshot {
 public:
  Snapshot(const fs::path& output_dir, std::int64_t step)
      : path_(output_dir / concat(kto::detail::unfinished_prefix, step, kto::detail::pushed_suffix)) {
    fs::remove_all(path_);
  }
  Snapshot(const Snapshot&) = delete;
  Snapshot& operator=(const Snapshot&) = delete;
  ~Snapshot() {
    std::error_code stays;  // the next run removes it
    fs::remove_all(path_, stays);
  }

  fs::path model() const { return path_ / "model"; }
  fs::path checkpoint() const { return path_ / "checkpoint"; }

  void link(const fs::path& file, const fs::path& as) const {
    std::error_code cannot;
    fs::create_directories(as.parent_path());
    fs::create_hard_link(file, as, cannot);
    if (cannot) fs::copy_file(file, as);  // the file system has no links
  }
  void copy(const fs::path& file, const fs::path& as) const {
    fs::create_directories(as.parent_path());
    fs::copy_file(file, as);
  }

 private:
  fs::path path_;
};

/// The files of an output folder that are no part of a model or checkpoint, with what shows that they have changed.
using FileTimes = std::map<std::string, std::pair<fs::file_time_type, std::uintmax_t>>;
inline FileTimes file_times(const fs::path& output_dir) {
  Push push;
  push.ignores = is_beside_model;
  FileTimes out;
  for (const auto& [path, file] : files_to_push(output_dir, push))
    out[path] = {fs::last_write_time(file), fs::file_size(file)};
  return out;
}

/// Fills `out` with the model of a checkpoint and the reports beside it, and, `with_state`, the whole checkpoint.
/// `earlier`: what an earlier run left beside it, whose model is not this run's.
inline void take_files(const Snapshot& out, const fs::path& output_dir, const FileTimes& earlier,
                       const fs::path& checkpoint, bool with_state) {
  std::set<std::string> state{checkpoint_manifest, "trainer_state.json"};
  const Json values = read_json(checkpoint / checkpoint_manifest).value("values", Json::object());
  for (const auto& [part, unused] : values.items()) state.insert(part + ".safetensors");
  for (const auto& [path, file] : files_to_push(checkpoint, {})) {
    if (!state.contains(path)) out.link(file, out.model() / path);
    if (with_state) out.link(file, out.checkpoint() / path);
  }
  for (const auto& [path, time] : file_times(output_dir))
    if (const auto left = earlier.find(path);
        (left == earlier.end() || left->second != time) && !fs::exists(out.model() / path))
      out.copy(output_dir / path, out.model() / path);
}

}  // namespace detail

/// The pushes of one run. Its functions are for the training thread.
class RunPusher {
 public:
  /// Creates the repository if it is missing. Throws Error as prepare_push.
  explicit RunPusher(RunPush run) : run_(std::move(run)) {
    run_.push.stop = stop_.get_token();
    run_.push = prepare_push(std::move(run_.push));
    if (fs::is_directory(run_.folder)) earlier_ = detail::file_times(run_.folder);
  }
  RunPusher(const RunPusher&) = delete;
  RunPusher& operator=(const RunPusher&) = delete;

  /// The repository: owner/name.
  const std::string& id() const { return run_.push.id; }

  /// Begins to push a checkpoint that is complete, as the strategy says.
  void save(const TrainerState& state, const fs::path& checkpoint) {
    report();
    if (run_.strategy == PushStrategy::end) return;
    if (!run_.always && !queue_.is_idle()) {
      say(concat(checkpoint.filename().string(), " is not pushed: the push before it is under way (hub_always_push ",
                 "pushes each)"));
      return;
    }
    const bool with_state = run_.strategy != PushStrategy::every_save;
    attempt(concat("pushing ", checkpoint.filename().string()), [&] {
      auto files = std::make_shared<detail::Snapshot>(run_.folder, state.global_step);
      detail::take_files(*files, run_.folder, earlier_, checkpoint, with_state);
      const std::string message =
          concat("Training in progress, ", run_.saves_by_epoch ? "epoch " : "step ",
                 run_.saves_by_epoch ? static_cast<std::int64_t>(state.epoch) : state.global_step);
      const std::string name = checkpoint.filename().string();
      queue_.add([this, files, message, name, with_state] {
        attempt("pushing the model of " + name, [&] { push_model(files->model(), message); });
        if (!with_state) return;
        Push push = quiet(message + ", checkpoint");
        push.path_in_repository = run_.strategy == PushStrategy::checkpoint ? "last-checkpoint" : name;
        attempt("pushing " + name, [&] { push_folder(files->checkpoint(), push); });
      });
    });
  }

  /// Waits for the push under way, at the end of a run that is stopped.
  void wait() {
    if (!queue_.is_idle()) say(concat("waiting for the push to ", id()));
    queue_.wait();
    report();
  }

  /// Waits for the push under way, then pushes the trained model from the output folder. Throws Error if this push or
  /// an earlier one failed, and Interrupted after a signal.
  void end() {
    if (!queue_.is_idle()) say(concat("waiting for the push to ", id(), " before the trained model is pushed"));
    while (!queue_.is_idle()) pause();
    attempt("pushing the trained model", [&] {
      Push push = run_.push;
      push.message = "End of training";
      push.ignores = is_beside_model;
      const auto files = files_to_push(run_.folder, push);
      for (const std::string& path : pushed_)
        if (!files.contains(path)) push.deleted.push_back(path);
      say(concat("pushed the trained model to ", push_folder(run_.folder, push)));
    });
    report();
    check(num_failures_ == 0, id(), ": ", num_failures_, " of the run's pushes failed; the trained model is in ",
          run_.folder.string(), ": push_to_hub uploads it");
  }

  /// Reports what the background has to say.
  void report() {
    std::vector<std::string> lines;
    {
      const std::lock_guard lock(mutex_);
      lines.swap(lines_);
    }
    for (const std::string& text : lines) say(text);
  }

 private:
  void say(const std::string& text) const {
    if (run_.note) run_.note(text);
  }
  /// A failure of `act` is counted, and reported later.
  template <class Act>
  void attempt(const std::string& what, const Act& act) {
    try {
      act();
    } catch (const Stopped&) {  // the run says so
    } catch (const std::exception& error) {
      const std::lock_guard lock(mutex_);
      ++num_failures_;
      lines_.push_back(concat(what, " failed: ", error_text(error)));
    }
  }
  Push quiet(const std::string& message) const {
    Push push = run_.push;
    push.message = message;
    push.shows_progress = false;
    return push;
  }
  void push_model(const fs::path& folder, const std::string& message) {
    const Push push = quiet(message);
    push_folder(folder, push);
    for (const auto& [path, file] : files_to_push(folder, push)) pushed_.insert(path);
  }
  void pause() {
    if (is_interrupted()) {
      stop_.request_stop();
      throw Interrupted{};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }

  RunPush run_;
  detail::FileTimes earlier_;
  std::stop_source stop_;
  std::mutex mutex_;
  std::vector<std::string> lines_;  ///< to report; this and the next under the mutex
  std::int64_t num_failures_ = 0;
  std::set<std::string> pushed_;  ///< at the root; the queue's, and after it end()'s
  TaskQueue queue_;
};

/// Pushes what a run saves to `pusher`'s repository. When the run is over, call pusher->end(), or pusher->wait().
inline Callback push_saves(std::shared_ptr<RunPusher> pusher) {
  Callback out;
  out.on_step_end = [pusher](const TrainerState&, Control&) { pusher->report(); };
  out.on_save = [pusher](const TrainerState& state, const fs::path& folder) { pusher->save(state, folder); };
  return out;
}

}  // namespace kto::hub
#endif
