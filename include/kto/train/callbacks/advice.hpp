// SPDX-License-Identifier: Apache-2.0
// Warnings about a run's settings and its log. The ranges are those recommended by KTO's authors (arXiv:2402.01306, and
// the advice in TRL's documentation).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kto/train/callbacks.hpp"

namespace kto {

/// One message for each setting outside its usual range.
inline std::vector<std::string> config_advice(const TrainConfig& config) {
  std::vector<std::string> out;
  const std::int64_t batch = config.per_device_train_batch_size, effective = batch * config.gradient_accumulation_steps;
  const bool by_tokens = config.max_tokens_per_batch.has_value();  // then the number of rows is unknown here
  if (!by_tokens && batch < 4 && config.kl_scope == KlScope::micro_batch)
    out.push_back(concat("per_device_train_batch_size ", batch,
                         " is below 4: the KL baseline of so few rows is noisy; "
                         "use 4 or more, or kl_scope window"));
  if (!by_tokens && (effective < 16 || effective > 128))
    out.push_back(concat("an update has ", effective,
                         " rows (per_device_train_batch_size * "
                         "gradient_accumulation_steps); 16 to 128 are usual"));
  if (config.learning_rate < 5e-7 || config.learning_rate > 5e-6)
    out.push_back(concat("learning_rate ", config.learning_rate,
                         " is outside 5e-7 to 5e-6, the usual range for full fine-tuning (adapters take more)"));
  return out;
}

/// Calls `warn` once if the rewards collapse: kl stays 0 and the reward margin falls over `patience` log entries in a
/// row, not counting the first entry.
inline Callback watch_collapse(std::function<void(const std::string&)> warn, int patience = 5) {
  struct Seen {
    int num_bad = 0;
    double margin = 0;
    bool first = true, noted = false;
  };
  Callback out;
  out.on_log = [seen = std::make_shared<Seen>(), warn = std::move(warn), patience](const TrainerState& state,
                                                                                   const Json& entry, Control&) {
    if (seen->noted || !entry.contains("kl") || !entry.contains("rewards/margins")) return;
    const double margin = entry["rewards/margins"].get<double>();
    const bool bad = !seen->first && entry["kl"].get<double>() == 0 && margin < seen->margin;
    seen->num_bad = bad ? seen->num_bad + 1 : 0;
    seen->margin = margin;
    seen->first = false;
    if (seen->num_bad < patience) return;
    seen->noted = true;
    warn(concat("step ", state.global_step,
                ": the rewards are collapsing: kl is 0 and the reward margin has fallen in ", patience,
                " log entries in a row; lower learning_rate, or check the balance of the rows"));
  };
  return out;
}

}  // namespace kto
