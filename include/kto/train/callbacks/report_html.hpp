// SPDX-License-Identifier: Apache-2.0
// A callback that shows a run in a web page, which it writes over and over while training goes on.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "kto/core/memory.hpp"
#include "kto/io/atomic_file.hpp"
#include "kto/train/callbacks.hpp"
#include "kto/train/callbacks/html_page.hpp"
#include "kto/train/callbacks/run_page.hpp"

namespace kto {

/// What report_html writes, and where.
struct HtmlReport {
  fs::path path;                                      ///< of the page
  std::string title = "kto run";                      ///< at its head
  Json settings = Json::object();                     ///< shown as a table
  at::Device device = at::kCPU;                       ///< its memory is shown in addition to the process's
  std::function<void(const std::string&)> warn = {};  ///< hears once if the page cannot be written
  std::chrono::milliseconds every{5000};              ///< between two writes, at least
};

namespace detail {

class HtmlWriter {
 public:
  explicit HtmlWriter(HtmlReport report) : report_(std::move(report)) {}
  HtmlWriter(const HtmlWriter&) = delete;
  HtmlWriter& operator=(const HtmlWriter&) = delete;
  ~HtmlWriter() {
    if (status_ == "running") end("stopped");
  }

  void begin(const TrainerState& state, const Plan& plan) {
    page_ = {};
    notes_ = Json::array();
    num_steps_ = plan.num_steps;
    for (const Json& entry : state.log_history) add(entry);
    if (state.global_step > 0) add_earlier_measures(state.global_step);
    begun_ = step_ended_ = Clock::now();
    begun_at_step_ = state.global_step;
    num_tokens_ = state.num_tokens;
    seconds_ = 0;
    status_ = "running";
    set_place(state);
    write();
  }
  void begin_step() { step_ended_ = Clock::now(); }
  void end_step(const TrainerState& state) {
    count_time();
    set_place(state);
    write_if_due();
  }
  void log(const TrainerState& state, const Json& entry) {
    set_place(state);
    add(entry);
    if (entry.contains("learning_rate")) {
      count_time();  // the entry waited for the device
      page_.add(state.global_step, measures(state));
    }
    step_ended_ = Clock::now();
    write_if_due();
  }
  void note(const std::string& text) {
    constexpr std::size_t most = 100;
    if (notes_.size() < most) notes_.push_back(text);
  }
  void end(const char* status) {
    status_ = status;
    write();
  }

 private:
  using Clock = std::chrono::steady_clock;
  static double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  void add(const Json& entry) {
    if (entry.contains("step") && entry["step"].is_number()) page_.add(entry["step"].get<std::int64_t>(), entry);
  }
  void set_place(const TrainerState& state) {
    step_ = state.global_step;
    epoch_ = state.epoch;
  }
  /// Adds the time since the step, or what followed it, to that of training.
  void count_time() {
    seconds_ += seconds_since(step_ended_);
    step_ended_ = Clock::now();
  }

  /// What the log does not have: tokens per second without evaluations and saving, and memory in bytes.
  Json measures(const TrainerState& state) {
    Json out = Json::object();
    const std::int64_t tokens = state.num_tokens - std::exchange(num_tokens_, state.num_tokens);
    if (const double seconds = std::exchange(seconds_, 0); tokens > 0 && seconds > 0)
      out["tokens_per_second"] = static_cast<double>(tokens) / seconds;
    if (const MemoryUse memory = memory_use(); memory.resident > 0) out["memory/process"] = memory.resident;
    if (!report_.device.is_cpu()) out["memory/device, peak"] = device_memory_use(report_.device).peak;
    return out;
  }
  /// Those of the run that is resumed, from the page it left.
  void add_earlier_measures(std::int64_t last_step) {
    try {
      const auto data = html_page_data(read_file(report_.path));
      if (!data) return;
      for (const auto& [name, columns] : data->at("series").items()) {
        if (name != "tokens_per_second" && !name.starts_with("memory/")) continue;
        const auto steps = columns.at(0).get<std::vector<std::int64_t>>();
        const auto values = columns.at(1).get<std::vector<double>>();
        for (std::size_t i = 0; i < std::min(steps.size(), values.size()); ++i)
          if (steps[i] <= last_step) page_.add(steps[i], {{name, values[i]}});
      }
    } catch (const std::exception&) {  // there is no such page, or another one
    }
  }

  void write_if_due() {
    if (Clock::now() >= next_write_) write();
  }
  /// A page that cannot be written is worth a warning, not the run. Long pages are written less often.
  void write() {
    const auto start = Clock::now();
    try {
      write_file(report_.path, html_page(data()));
    } catch (const std::exception& error) {
      if (!std::exchange(warned_, true) && report_.warn) report_.warn(concat("report html: ", error.what()));
    }
    constexpr int share = 50;  // at least so many times longer between two writes than one takes
    next_write_ = Clock::now() + std::max<Clock::duration>(report_.every, share * (Clock::now() - start));
  }
  Json data() const {
    const std::int64_t made = step_ - begun_at_step_, left = num_steps_ - step_;
    const double each = made > 0 ? seconds_since(begun_) / static_cast<double>(made) : 0;
    Json out = {{"title", report_.title},
                {"status", status_},
                {"step", step_},
                {"num_steps", num_steps_},
                {"epoch", epoch_},
                {"seconds_left", std::round(each * static_cast<double>(left))},
                {"updated", std::chrono::system_clock::to_time_t(std::chrono::system_clock::now())},
                {"every", std::chrono::duration<double>(report_.every).count()},
                {"notes", notes_},
                {"settings", report_.settings}};
    out.update(page_.to_json());
    return out;
  }

  HtmlReport report_;
  RunPage page_;
  Json notes_ = Json::array();
  std::string status_ = "";  ///< running, finished, stopped; empty before training
  std::int64_t step_ = 0, num_steps_ = 0, begun_at_step_ = 0, num_tokens_ = 0;
  double epoch_ = 0, seconds_ = 0;  ///< seconds of training since the last entry
  Clock::time_point begun_ = {}, step_ended_ = {}, next_write_ = {};
  bool warned_ = false;
};

}  // namespace detail

/// Writes a page for a browser: the log as charts, the sample replies of evaluations, and the settings. It is written
/// when training begins, then at most once every `report.every`, and at the end; a resumed run continues its page.
inline Callback report_html(HtmlReport report) {
  const auto writer = std::make_shared<detail::HtmlWriter>(std::move(report));
  Callback out;
  out.on_train_begin = [writer](const TrainerState& state, const Plan& plan) { writer->begin(state, plan); };
  out.on_step_begin = [writer](const TrainerState&, Control&) { writer->begin_step(); };
  out.on_step_end = [writer](const TrainerState& state, Control&) { writer->end_step(state); };
  out.on_log = [writer](const TrainerState& state, const Json& entry, Control&) { writer->log(state, entry); };
  out.on_train_end = [writer](const TrainerState&) { writer->end("finished"); };
  out.on_note = [writer](const std::string& text) { writer->note(text); };
  return out;
}

}  // namespace kto
