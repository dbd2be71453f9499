// SPDX-License-Identifier: Apache-2.0
// The progress of a run and its log, in the format of transformers' TrainerState, so that tools for trainer_state.json
// can read it.
#pragma once

#include <optional>
#include <string>

#include "kto/io/json.hpp"
#include "kto/train/config.hpp"
#include "kto/train/plan.hpp"

namespace kto {

/// Where a run is: what trainer_state.json holds.
struct TrainerState {
  std::int64_t global_step = 0;            ///< updates made
  double epoch = 0;                        ///< passes over the rows, with fractions
  std::int64_t num_tokens = 0;             ///< tokens of the rows trained on so far, without KL pairs and padding
  std::int64_t num_input_tokens_seen = 0;  ///< as include_num_input_tokens_seen counts; 0 if it is off
  double total_flos = 0;                   ///< see estimated_flos
  Json log_history = Json::array();        ///< the entries of the log, as in trainer_state.json
  double train_loss = 0;                   ///< mean loss over all steps
  double train_runtime = 0;                ///< seconds
  bool interrupted = false;                ///< the run was stopped and can be resumed
  /// The evaluation after the last step was interrupted: a resumed run starts with it.
  bool evaluation_due = false;

  std::optional<double> best_metric = std::nullopt;                 ///< of config.metric_for_best_model
  std::optional<std::int64_t> best_global_step = std::nullopt;      ///< updates made when it was measured
  std::optional<std::string> best_model_checkpoint = std::nullopt;  ///< folder
  std::int64_t num_not_better = 0;                                  ///< evaluations in a row without a better metric

  /// The next evaluation is the first that counts.
  void forget_best() {
    best_metric.reset();
    best_global_step.reset();
    best_model_checkpoint.reset();
    num_not_better = 0;
  }
};

/// The number of rows a run over `num_rows` rows has visited, by transformers' count: its share of the whole schedule.
inline double num_samples(const TrainConfig& config, const TrainerState& state, const Plan& plan,
                          std::size_t num_rows) {
  const auto rows = static_cast<double>(num_rows), steps = static_cast<double>(state.global_step);
  if (config.max_tokens_per_batch) return rows * state.epoch;
  if (config.max_steps > 0)
    return steps * static_cast<double>(config.per_device_train_batch_size * config.gradient_accumulation_steps);
  return rows * config.num_train_epochs * steps / static_cast<double>(plan.num_steps);
}

namespace detail {

template <class T>
Json json_or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

inline Json stateful_callbacks(const TrainerState& state, const TrainConfig& config) {
  if (!config.early_stopping_patience) return Json::object();
  return {{"EarlyStoppingCallback",
           {{"args",
             {{"early_stopping_patience", *config.early_stopping_patience},
              {"early_stopping_threshold", config.early_stopping_threshold}}},
            {"attributes", {{"early_stopping_patience_counter", state.num_not_better}}}}}};
}

}  // namespace detail

/// trainer_state.json.
inline Json to_json(const TrainerState& state, const Plan& plan, const TrainConfig& config) {
  return {{"best_global_step", detail::json_or_null(state.best_global_step)},
          {"best_metric", detail::json_or_null(state.best_metric)},
          {"best_model_checkpoint", detail::json_or_null(state.best_model_checkpoint)},
          {"epoch", state.epoch},
          {"eval_steps", plan.eval_steps > 0 ? plan.eval_steps : 500},
          {"global_step", state.global_step},
          {"is_hyper_param_search", false},
          {"is_local_process_zero", true},
          {"is_world_process_zero", true},
          {"log_history", state.log_history},
          {"logging_steps", plan.logging_steps > 0 ? plan.logging_steps : 500},
          {"max_steps", plan.num_steps},
          {"num_input_tokens_seen", state.num_input_tokens_seen},
          {"num_train_epochs", plan.num_epochs},
          {"save_steps", plan.save_steps > 0 ? plan.save_steps : 500},
          {"stateful_callbacks", detail::stateful_callbacks(state, config)},
          {"total_flos", state.total_flos},
          {"train_batch_size", config.per_device_train_batch_size},
          {"trial_name", nullptr},
          {"trial_params", nullptr}};
}

/// The inverse of to_json. num_tokens is not included, since transformers refuses unknown keys. Throws Error, starting
/// with `where` (a path), if something is missing or not a number.
inline TrainerState trainer_state_from_json(const Json& object, const std::string& where) {
  check(object.is_object() && object.contains("log_history") && object["log_history"].is_array(), where,
        ": is not a trainer state: it has no log_history");
  TrainerState state;
  state.global_step = json_value<std::int64_t>(object, "global_step", 0, where);
  state.epoch = json_value<double>(object, "epoch", 0, where);
  state.num_input_tokens_seen = json_value<std::int64_t>(object, "num_input_tokens_seen", 0, where);
  state.total_flos = json_value<double>(object, "total_flos", 0, where);
  state.log_history = object["log_history"];
  const auto optional = [&]<class T>(const char* key, std::optional<T>& field) {
    if (object.contains(key) && !object[key].is_null()) field = json_value<T>(object, key, T{}, where);
  };
  optional("best_metric", state.best_metric);
  optional("best_global_step", state.best_global_step);
  optional("best_model_checkpoint", state.best_model_checkpoint);
  const Json::json_pointer counter(
      "/stateful_callbacks/EarlyStoppingCallback/attributes/early_stopping_patience_counter");
  if (object.contains(counter)) state.num_not_better = json_as<std::int64_t>(object[counter]).value_or(0);
  return state;
}

}  // namespace kto
