// SPDX-License-Identifier: Apache-2.0
// A callback that sends a run to an MLflow server, over its REST interface (version 2.0) with libcurl, on a thread of its
// own. In programs that link kto::hub.
#pragma once

#if defined(KTO_HAS_HUB)
#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kto/core/task_queue.hpp"
#include "kto/io/base64.hpp"
#include "kto/io/http.hpp"
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
  MlflowServer() : address_(mlflow_address()), client_(access(address_)) {}

  struct Answer {
    long status = 0;
    Json body;
  };

  /// Sends `body` and returns the answer. A failure that may pass is tried again; then, or if the server refuses, throws
  /// Error, except for a status in `expected`.
  Answer send(const char* method, const std::string& path, const std::string& body, long expected = 200) {
    const http::Response answer = client_.with_patience([&] {
      return client_.send(
          {.url = address_ + path, .method = method, .headers = {"Content-Type: application/json"}, .body = body});
    });
    if (answer.status != 200 && answer.status != expected)
      fail(address_, path, ": status ", answer.status, ": ", shortened(answer.body, 200));
    return {answer.status, Json::parse(answer.body, nullptr, /*allow_exceptions=*/false)};
  }
  Json post(const std::string& path, const Json& body, long expected = 200) {
    return send("POST", "/api/2.0/mlflow/" + path, body.dump(-1, ' ', false, Json::error_handler_t::replace), expected)
        .body;
  }

 private:
  static http::Access access(const std::string& address) {
    const std::string token = environment("MLFLOW_TRACKING_TOKEN").value_or(""),
                      user = environment("MLFLOW_TRACKING_USERNAME").value_or(""),
                      password = environment("MLFLOW_TRACKING_PASSWORD").value_or("");
    return {.origin = address,
            .authorization = !token.empty()  ? "Bearer " + token
                             : !user.empty() ? "Basic " + encode_base64(user + ":" + password)
                                             : "",
            .named_by = "MLFLOW_TRACKING_URI",
            .timeout = 60,
            .verifies = environment("MLFLOW_TRACKING_INSECURE_TLS") != "true"};
  }

  std::string address_;
  http::Client client_;
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
    const auto found =
        server_.send("GET", "/api/2.0/mlflow/experiments/get-by-name?experiment_name=" + http::url_part(name), "", 404);
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
