// SPDX-License-Identifier: Apache-2.0
// A callback that sends a run to an MLflow server, over its REST interface (version 2.0) with libcurl, on a thread of its
// own. In programs that link kto::hub.
#pragma once

#if defined(KTO_HAS_HUB)
#include <curl/curl.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kto/train/callbacks/trackers/tracker.hpp"

namespace kto {

/// MLFLOW_TRACKING_URI, without a slash at its end. Throws UsageError unless it is the address of a server.
inline std::string mlflow_address() {
  std::string address = environment("MLFLOW_TRACKING_URI").value_or("");
  if (!address.starts_with("http://") && !address.starts_with("https://"))
    throw UsageError(
        concat("report_to mlflow sends to a server: set MLFLOW_TRACKING_URI to its address, such as "
               "http://localhost:5000; it is ",
               address.empty() ? "not set" : "\"" + address + "\""));
  while (address.ends_with('/')) address.pop_back();
  return address;
}

namespace detail {

/// Requests to an MLflow server, as the environment variables of its client say.
class MlflowServer {
 public:
  MlflowServer() : address_(mlflow_address()), handle_(::curl_easy_init(), &::curl_easy_cleanup) {
    check(handle_ != nullptr, "libcurl cannot be used");
  }

  struct Answer {
    long status = 0;
    Json body;
  };

  /// Sends `body` and returns the answer. A failure that may pass is tried again; then, or if the server refuses, throws
  /// Error, except for a status in `expected`.
  Answer send(const char* method, const std::string& path, const std::string& body, long expected = 200) {
    for (int tries = 1;; ++tries) {
      std::string text;
      long status = 0;
      const std::string problem = perform(method, path, body, text, status);
      if (problem.empty() && (status == 200 || status == expected))
        return {status, Json::parse(text, nullptr, /*allow_exceptions=*/false)};
      const bool may_pass = !problem.empty() || status == 429 || status >= 500;
      if (!may_pass || tries == 4)
        fail(address_, path, ": ", problem.empty() ? concat("status ", status, ": ", shortened(text, 200)) : problem);
      std::this_thread::sleep_for(std::chrono::milliseconds(250 << tries));
    }
  }
  Json post(const std::string& path, const Json& body, long expected = 200) {
    return send("POST", "/api/2.0/mlflow/" + path, body.dump(-1, ' ', false, Json::error_handler_t::replace), expected)
        .body;
  }

 private:
  std::string perform(const char* method, const std::string& path, const std::string& body, std::string& text,
                      long& status) {
    CURL* const curl = handle_.get();
    ::curl_easy_reset(curl);
    const auto set = [curl](CURLoption option, auto value) { ::curl_easy_setopt(curl, option, value); };
    using Headers = std::unique_ptr<curl_slist, decltype(&::curl_slist_free_all)>;
    Headers headers(::curl_slist_append(nullptr, "Content-Type: application/json"), &::curl_slist_free_all);
    const std::string token = environment("MLFLOW_TRACKING_TOKEN").value_or(""),
                      user = environment("MLFLOW_TRACKING_USERNAME").value_or(""),
                      password = environment("MLFLOW_TRACKING_PASSWORD").value_or(""), url = address_ + path;
    if (!token.empty()) ::curl_slist_append(headers.get(), ("Authorization: Bearer " + token).c_str());
    if (token.empty() && !user.empty()) {
      set(CURLOPT_USERNAME, user.c_str());
      set(CURLOPT_PASSWORD, password.c_str());
    }
    if (environment("MLFLOW_TRACKING_INSECURE_TLS") == "true") {
      set(CURLOPT_SSL_VERIFYPEER, 0L);
      set(CURLOPT_SSL_VERIFYHOST, 0L);
    }
    const auto take = +[](char* data, std::size_t size, std::size_t count, void* out) {
      static_cast<std::string*>(out)->append(data, size * count);
      return size * count;
    };
    set(CURLOPT_URL, url.c_str());
    set(CURLOPT_CUSTOMREQUEST, method);
    set(CURLOPT_HTTPHEADER, headers.get());
    if (std::string_view(method) != "GET") {
      set(CURLOPT_POSTFIELDS, body.data());
      set(CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
    }
    set(CURLOPT_WRITEFUNCTION, take);
    set(CURLOPT_WRITEDATA, &text);
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_CONNECTTIMEOUT, 10L);
    set(CURLOPT_TIMEOUT, 60L);
    const CURLcode code = ::curl_easy_perform(curl);
    ::curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    return code == CURLE_OK ? "" : ::curl_easy_strerror(code);
  }

  std::string address_;
  std::unique_ptr<CURL, decltype(&::curl_easy_cleanup)> handle_;
};

/// Tasks that run one after another on a thread of their own. After one that throws, the rest are dropped.
class TaskQueue {
 public:
  TaskQueue() : thread_([this] { work(); }) {}
  TaskQueue(const TaskQueue&) = delete;
  TaskQueue& operator=(const TaskQueue&) = delete;
  ~TaskQueue() {
    {
      const std::lock_guard guard(mutex_);
      is_closed_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  /// Throws Error if an earlier task failed.
  void add(std::function<void()> task) {
    const std::lock_guard guard(mutex_);
    if (!failure_.empty()) fail(failure_);
    tasks_.push_back(std::move(task));
    changed_.notify_all();
  }
  /// Returns when all tasks are done. Throws Error if one failed.
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !failure_.empty() || (tasks_.empty() && !is_busy_); });
    if (!failure_.empty()) fail(failure_);
  }

 private:
  void work() {
    for (std::unique_lock lock(mutex_);;) {
      changed_.wait(lock, [&] { return is_closed_ || !tasks_.empty(); });
      if (tasks_.empty() || !failure_.empty()) return;
      const auto task = std::move(tasks_.front());
      tasks_.pop_front();
      is_busy_ = true;
      lock.unlock();
      std::string failure;
      try {
        task();
      } catch (const std::exception& error) {
        failure = error.what();
      }
      lock.lock();
      is_busy_ = false;
      failure_ = failure;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  std::string failure_;
  bool is_closed_ = false, is_busy_ = false;
  std::thread thread_;
};

class MlflowTracker {
 public:
  explicit MlflowTracker(TrackedRun run) : run_(std::move(run)) {}
  MlflowTracker(const MlflowTracker&) = delete;
  MlflowTracker& operator=(const MlflowTracker&) = delete;
  ~MlflowTracker() {
    try {
      if (is_running_) queue_.add([this] { update("KILLED"); });
    } catch (const std::exception&) {  // the run has ended with an error of its own
    }
  }

  void begin(const TrainerState& state) {
    is_running_ = true;
    num_earlier_ = 0;
    const fs::path file = run_.folder / "mlflow_run.json";
    std::string id = environment("MLFLOW_RUN_ID").value_or("");
    std::error_code none;
    if (id.empty() && state.global_step > 0 && fs::is_regular_file(file, none))
      id = json_value<std::string>(read_json(file), "id", "", file.string());
    if (!id.empty()) num_earlier_ = state.log_history.size();
    queue_.add([this, id, file] {
      if (id.empty())
        create(file);
      else
        artifacts_ = server_.post("runs/update", {{"run_id", id_ = id}, {"status", "RUNNING"}})["run_info"].value(
            "artifact_uri", "");
    });
  }

  void log(const Json& entry, std::size_t index) {
    const bool is_new = index >= num_earlier_;
    Json metrics = Json::array();
    const auto step = json_value<std::int64_t>(entry, "step", 0, "log entry");
    for (const auto& [key, value] : entry.items())
      if (value.is_number() && key != "step")
        metrics.push_back({{"key", metric_name(key)}, {"value", number(value)}, {"timestamp", now()}, {"step", step}});
    if (is_new)
      queue_.add([this, metrics = std::move(metrics)] {
        server_.post("runs/log-batch", {{"run_id", id_}, {"metrics", metrics}});
      });
    visit_samples(entry, [&](const std::string& name, const Json& samples) {
      queue_.add([this, name, samples, step, is_new] { add_samples(name, samples, step, is_new); });
    });
  }

  void end() {
    is_running_ = false;
    queue_.add([this] { update("FINISHED"); });
    queue_.wait();
  }

 private:
  static std::int64_t now() {
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
        .count();
  }
  static std::string metric_name(std::string key) {
    for (char& c : key)
      if (std::isalnum(static_cast<unsigned char>(c)) == 0 && std::string_view("_-. :/").find(c) == std::string::npos)
        c = '_';
    return key;
  }
  static Json number(const Json& value) {
    const auto real = value.get<double>();
    return std::isfinite(real) ? value : std::isnan(real) ? Json("NaN") : Json(real > 0 ? "Infinity" : "-Infinity");
  }
  /// As Python prints it.
  static std::string parameter_text(const Json& value) {
    if (value.is_null()) return "None";
    if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
    return value.is_string() ? value.get<std::string>() : value.dump();
  }

  void update(const char* status) {
    server_.post("runs/update", {{"run_id", id_}, {"status", status}, {"end_time", now()}});
  }

  /// Creates the run, in an experiment that is created if it is missing, with its settings as parameters.
  void create(const fs::path& file) {
    std::string experiment = environment("MLFLOW_EXPERIMENT_ID").value_or("");
    if (const std::string name = environment("MLFLOW_EXPERIMENT_NAME").value_or(""); experiment.empty() && name.empty())
      experiment = "0";
    else if (experiment.empty())
      experiment = experiment_named(name);
    const Json made = server_.post("runs/create", {{"experiment_id", experiment},
                                                   {"run_name", run_.name},
                                                   {"start_time", now()},
                                                   {"tags", {{{"key", "mlflow.source.name"}, {"value", "kto"}}}}});
    const Json info = made.value("run", Json::object()).value("info", Json::object());
    id_ = info.value("run_id", "");
    artifacts_ = info.value("artifact_uri", "");
    check(!id_.empty(), "the server created no run");
    write_file(file, Json{{"id", id_}}.dump() + "\n");
    constexpr std::size_t most_params = 100, longest = 500;  // of one request, and of a value
    Json params = Json::array();
    const auto flush = [&] {
      if (!params.empty()) server_.post("runs/log-batch", {{"run_id", id_}, {"params", params}});
      params = Json::array();
    };
    for (const auto& [key, value] : run_.config.items()) {
      const std::string text = parameter_text(value);
      if (text.size() > longest) continue;
      params.push_back({{"key", key}, {"value", text}});
      if (params.size() == most_params) flush();
    }
    flush();
  }
  std::string experiment_named(const std::string& name) {
    std::unique_ptr<char, decltype(&::curl_free)> quoted(
        ::curl_easy_escape(nullptr, name.c_str(), static_cast<int>(name.size())), &::curl_free);
    const auto found =
        server_.send("GET", concat("/api/2.0/mlflow/experiments/get-by-name?experiment_name=", quoted.get()), "", 404);
    if (found.status == 200) return found.body["experiment"].value("experiment_id", "");
    return server_.post("experiments/create", {{"name", name}}).value("experiment_id", "");
  }

  /// Adds rows to the table `name`, an artifact of the run, where the server takes artifacts itself.
  void add_samples(const std::string& name, const Json& samples, std::int64_t step, bool is_new) {
    constexpr std::size_t most_rows = 1000;
    Json& rows = tables_[name];
    for (const Json& sample : samples)
      rows.push_back({step, sample.value("prompt", ""), sample.value("policy", ""), sample.value("reference", "")});
    while (rows.size() > most_rows) rows.erase(rows.begin());
    constexpr std::string_view proxied = "mlflow-artifacts:/";
    if (!is_new || !artifacts_.starts_with(proxied)) return;
    std::string path = artifacts_.substr(proxied.size());  // after a host, if there is one
    if (path.starts_with('/')) path = path.substr(std::min(path.size(), path.find('/', 1)));
    while (path.starts_with('/')) path.erase(0, 1);
    const Json table = {{"columns", {"step", "prompt", "policy", "reference"}}, {"data", rows}};
    server_.send("PUT", concat("/api/2.0/mlflow-artifacts/artifacts/", path, '/', name, ".json"),
                 table.dump(-1, ' ', false, Json::error_handler_t::replace));
    Json list = Json::array();
    for (const auto& [each, unused] : tables_) list.push_back({{"path", each + ".json"}, {"type", "table"}});
    server_.post("runs/set-tag", {{"run_id", id_}, {"key", "mlflow.loggedArtifacts"}, {"value", list.dump()}});
  }

  TrackedRun run_;
  std::size_t num_earlier_ = 0;  ///< entries that the resumed run has sent
  bool is_running_ = false;
  MlflowServer server_;  ///< this and the next three belong to the queue's thread
  std::string id_, artifacts_;
  std::map<std::string, Json> tables_;
  TaskQueue queue_;
};

}  // namespace detail

/// Sends the log to the server at MLFLOW_TRACKING_URI, with transformers' names: settings as parameters, numbers as
/// metrics, sample replies as tables. A resumed run goes on as the same run. The environment variables of MLflow's client
/// for authentication, experiment and run are honoured. Throws UsageError as mlflow_address().
inline Callback report_mlflow(const TrackedRun& run) {
  return detail::tracked("mlflow", std::make_shared<detail::MlflowTracker>(run), run.note);
}

}  // namespace kto

#endif
