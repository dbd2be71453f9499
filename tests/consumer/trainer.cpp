// SPDX-License-Identifier: Apache-2.0
// A user's program on kto::kto: a function of one matrix as the model, a few steps of KTO. Exits with 0 where the
// reward margin (good - bad) has risen.
#include <kto/collate/padded.hpp>
#include <kto/loss/kto.hpp>
#include <kto/model/module.hpp>
#include <kto/reference/live.hpp>
#include <kto/train/trainer.hpp>

int main() {
  const auto bigram = [](const kto::NamedTensors& parameters, const kto::Tensor& ids_BT, const kto::Tensor&) {
    return at::embedding(parameters[0].second, ids_BT);
  };
  const kto::FunctionModel model{kto::NamedTensors{{"table", at::zeros({4, 4}).requires_grad_(true)}}, bigram};
  kto::Trainer trainer{.model = model,
                       .collator = kto::PaddedCollator{},
                       .loss = kto::Kto{.beta = 0.5},
                       .reference = kto::live_reference(model),
                       .config = {.per_device_train_batch_size = 4, .max_steps = 8, .learning_rate = 0.1}};
  const std::vector<kto::Example> rows{
      {.prompt_ids = {0}, .completion_ids = {1, 2}, .label = true, .row = 1},
      {.prompt_ids = {0}, .completion_ids = {2, 1}, .label = false, .row = 2},
      {.prompt_ids = {3}, .completion_ids = {1, 2}, .label = true, .row = 3},
      {.prompt_ids = {3}, .completion_ids = {2, 1}, .label = false, .row = 4},
  };
  trainer.train(rows);
  return trainer.evaluate(rows)["eval_rewards/margins"].get<double>() > 0 ? 0 : 1;
}
