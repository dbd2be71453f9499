// SPDX-License-Identifier: Apache-2.0
// Where a run stands, and its log: written as transformers' TrainerState, so that tools which read trainer_state.json
// read ours.
#pragma once

#include <cstdint>

#include "kto/io/json.hpp"
#include "kto/train/plan.hpp"

namespace kto {

struct TrainerState {
  std::int64_t global_step = 0;  ///< updates made
  double epoch = 0;
  std::int64_t num_tokens = 0;  ///< tokens of the rows trained on so far, without KL pairs and padding
  Json log_history = Json::array();
  double train_loss = 0;     ///< mean loss over all steps
  double train_runtime = 0;  ///< seconds
};

/// trainer_state.json.
inline Json to_json(const TrainerState& state, const Plan& plan, const TrainConfig& config) {
  return {{"best_global_step", nullptr},
          {"best_metric", nullptr},
          {"best_model_checkpoint", nullptr},
          {"epoch", state.epoch},
          {"eval_steps", plan.eval_steps > 0 ? plan.eval_steps : 500},
          {"global_step", state.global_step},
          {"is_hyper_param_search", false},
          {"is_local_process_zero", true},
          {"is_world_process_zero", true},
          {"log_history", state.log_history},
          {"logging_steps", plan.logging_steps > 0 ? plan.logging_steps : 500},
          {"max_steps", plan.num_steps},
          {"num_input_tokens_seen", state.num_tokens},
          {"num_train_epochs", plan.num_epochs},
          {"save_steps", 500},
          {"stateful_callbacks", Json::object()},
          {"total_flos", 0.0},
          {"train_batch_size", config.per_device_train_batch_size},
          {"trial_name", nullptr},
          {"trial_params", nullptr}};
}

}  // namespace kto
