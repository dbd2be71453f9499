// SPDX-License-Identifier: Apache-2.0
// Your own module and your own loss on several processes: `processes 2` starts two of itself, as torchrun would. Prints
// the same margin (good - bad) on held-out rows for 1, 2 or 4 processes, since an update has 16 rows with any number.
#include <torch/nn.h>

#include <cstdlib>

#include "kto/dist/join.hpp"
#include "kto/dist/launch.hpp"
#include "toy.hpp"

namespace nn = torch::nn;

struct WindowModelImpl : nn::Cloneable<WindowModelImpl> {  // sees the last two tokens
  nn::Embedding tokens{nullptr};
  nn::Linear head{nullptr};

  WindowModelImpl() { reset(); }
  void reset() override {  // also called by clone(), which creates the reference
    tokens = register_module("tokens", nn::Embedding(toy::vocabulary, 8));
    head = register_module("head", nn::Linear(8, toy::vocabulary));
  }
  at::Tensor forward(const at::Tensor& ids_BT, const at::Tensor& /*mask_BT*/) {
    const at::Tensor x_BTD = tokens(ids_BT);
    return head(x_BTD + at::relu(x_BTD.roll(1, 1)));
  }
};

struct Exponential {  // exp(-reward) of good rows, exp(reward) of bad ones
  static constexpr kto::BatchParts needs{};
  double beta = 0.3;

  template <class Array>
  kto::LossTerms<Array> operator()(const kto::LossInput<Array>& in) const {
    using kto::exp;
    const Array reward_B = beta * (in.policy_logp_B - in.reference_logp_B);
    return {.loss_B = exp(-in.sign_B * reward_B), .reward_B = reward_B};
  }
};

int main(int argc, char** argv) try {
  // [processes]
  const int count = argc > 1 ? std::atoi(argv[1]) : 1;
  if (const auto status = kto::launch(count, argv)) return *status;
  const kto::World world = kto::join_world();
  at::manual_seed(3);  // all ranks start from the same weights
  const kto::ModuleModel<WindowModelImpl> model{std::make_shared<WindowModelImpl>()};
  kto::Trainer trainer{.model = model,
                       .collator = kto::PaddedCollator{},
                       .loss = Exponential{},
                       .reference = kto::live_reference(model),
                       .config = {.per_device_train_batch_size = 4,
                                  .gradient_accumulation_steps = 4 / world.size,
                                  .max_steps = 40,
                                  .learning_rate = 3e-2},
                       .world = world};
  trainer.train(toy::rows(96));
  // [processes]
  const kto::Json metrics = trainer.evaluate(toy::rows(32));
  if (world.is_first())
    std::printf("%d processes: margin %.3f\n", world.size, metrics["eval_rewards/margins"].get<double>());
} catch (const std::exception& error) {
  return kto::report_error("processes", error);
}
