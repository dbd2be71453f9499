// SPDX-License-Identifier: Apache-2.0
// Your own module: a small hand-written transformer, trained on given token ids, with a callback that stops the run.
// Prints the reward margin (good - bad) at each log entry; it rises, and the run stops when it passes 2.
#include <torch/nn.h>

#include "kto/loss/kto.hpp"
#include "toy.hpp"

namespace nn = torch::nn;

// [module]
struct SmallTransformerImpl : nn::Cloneable<SmallTransformerImpl> {
  std::int64_t width = 16, num_heads = 2;
  nn::Embedding tokens{nullptr}, positions{nullptr};
  nn::LayerNorm norm{nullptr};
  nn::Linear qkv{nullptr}, mix{nullptr}, up{nullptr}, down{nullptr}, head{nullptr};

  SmallTransformerImpl() { reset(); }
  void reset() override {  // also called by clone(), which creates the reference
    tokens = register_module("tokens", nn::Embedding(toy::vocabulary, width));
    positions = register_module("positions", nn::Embedding(16, width));
    norm = register_module("norm", nn::LayerNorm(nn::LayerNormOptions({width})));
    qkv = register_module("qkv", nn::Linear(width, 3 * width));
    mix = register_module("mix", nn::Linear(width, width));
    up = register_module("up", nn::Linear(width, 4 * width));
    down = register_module("down", nn::Linear(4 * width, width));
    head = register_module("head", nn::Linear(width, toy::vocabulary));
  }

  at::Tensor forward(const at::Tensor& ids_BT,
                     const at::Tensor& /*mask_BT: right padding needs none under causality*/) {
    const auto T = ids_BT.size(1);
    at::Tensor x = tokens(ids_BT) + positions(at::arange(T));
    const auto parts = qkv(norm(x)).unflatten(-1, {3, num_heads, width / num_heads}).permute({2, 0, 3, 1, 4});
    const at::Tensor attended =
        at::scaled_dot_product_attention(parts[0], parts[1], parts[2], {}, 0.0, /*causal=*/true);
    x = x + mix(attended.transpose(1, 2).flatten(-2));
    return head(x + down(at::gelu(up(x))));
  }
};
// [module]

int main() try {
  at::manual_seed(3);
  // [trainer]
  const kto::ModuleModel<SmallTransformerImpl> model{std::make_shared<SmallTransformerImpl>()};
  kto::Callback watch;
  watch.on_log = [](const kto::TrainerState&, const kto::Json& entry, kto::Control& control) {
    if (!entry.contains("rewards/margins")) return;
    const double margin = entry["rewards/margins"].get<double>();
    std::printf("step %3d  margin %.3f\n", entry["step"].get<int>(), margin);
    control.should_stop = margin > 2;
  };
  kto::Trainer trainer{.model = model,
                       .collator = kto::PaddedCollator{},
                       .loss = kto::Kto{.beta = 0.3},
                       .reference = kto::live_reference(model),
                       .config = {.per_device_train_batch_size = 8, .max_steps = 200, .learning_rate = 3e-3},
                       .callbacks = {watch}};
  const auto state = trainer.train(toy::rows(96));
  // [trainer]
  std::printf("stopped after %d steps\n", static_cast<int>(state.global_step));
} catch (const std::exception& error) {
  return kto::report_error("own_module", error);
}
