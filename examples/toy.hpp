// SPDX-License-Identifier: Apache-2.0
// Shared by the small examples: given token ids (no tokenizer) and a model of one matrix, so that they run in a second
// and show just one thing.
#pragma once

#include <ATen/ops/randn.h>

#include <cstdio>

#include "kto/collate/padded.hpp"
#include "kto/core/terminal.hpp"
#include "kto/model/module.hpp"
#include "kto/reference/live.hpp"
#include "kto/train/trainer.hpp"

namespace toy {

inline constexpr std::int64_t vocabulary = 12;

/// Prompts of tokens 0..5; good completions count up from the prompt's last token, bad ones count down.
inline std::vector<kto::Example> rows(int count) {
  std::vector<kto::Example> out;
  for (std::int32_t i = 0; i < count; ++i) {
    const std::int32_t last = 3 + i % 6;
    const bool good = (i / 2) % 2 == 0;
    const std::int32_t step = good ? 1 : -1;
    out.push_back({.prompt_ids = {i % 5, last},
                   .completion_ids = {last + step, last + 2 * step, last + 3 * step},
                   .label = good,
                   .row = static_cast<std::size_t>(i + 1)});
  }
  return out;
}

/// Logits of the next token are a row of one matrix: a bigram model.
inline auto bigram_model() {
  at::manual_seed(1);
  const kto::Tensor table_VV = at::randn({vocabulary, vocabulary}).mul_(0.1).requires_grad_(true);
  return kto::FunctionModel{kto::NamedTensors{{"table", table_VV}},
                            [](const kto::NamedTensors& parameters, const kto::Tensor& ids_BT, const kto::Tensor&) {
                              return at::embedding(parameters[0].second, ids_BT);
                            }};
}

/// Trains a bigram model with `loss`, and prints the reward margin (good - bad) on held-out rows before and after, and
/// the trained log-probs.
template <class Loss>
void train_and_report(const char* name, const Loss& loss) {
  const auto model = bigram_model();
  kto::Trainer trainer{.model = model,
                       .collator = kto::PaddedCollator{},
                       .loss = loss,
                       .reference = kto::live_reference(model),
                       .config = {.per_device_train_batch_size = 8, .max_steps = 60, .learning_rate = 0.05}};
  const auto held_out = rows(24);
  const auto margin = [](const kto::Json& metrics) { return metrics["eval_rewards/margins"].template get<double>(); };
  const double before = margin(trainer.evaluate(held_out));
  const kto::TrainerState state = trainer.train(rows(96));
  const kto::Json after = trainer.evaluate(held_out);
  std::printf("%-28s margin %.3f -> %.3f, log-prob of good rows %.2f\n", name, before, margin(after),
              after["eval_logps/chosen"].template get<double>());
  for (const auto& [key, value] : state.log_history[0].items())
    if (key.starts_with("my/"))
      std::printf("%-28s %s %.3f at the first log entry\n", "", key.c_str(), value.template get<double>());
}

}  // namespace toy
