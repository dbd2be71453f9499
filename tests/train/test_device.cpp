// SPDX-License-Identifier: Apache-2.0
// A decoder and the trainer on a device that catches mistakes (tests/device/guarded_device.cpp), in a process into which
// it is preloaded: ctest -R guarded_device. Everywhere else these cases are hidden.
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "catch.hpp"
#include "device/guarded_counts.hpp"
#include "examples/toy.hpp"
#include "kto/collate/packed.hpp"
#include "kto/loss/kto.hpp"
#include "tests/model/model_cases.hpp"

using kto::Tensor;

namespace {

/// Not the device that a kind without a number is.
const at::Device& device() {
  static const at::Device second("guarded:1");
  return second;
}

GuardedCounts counts() {
  static const auto read = reinterpret_cast<GuardedCounts (*)()>(::dlsym(RTLD_DEFAULT, "guarded_counts"));
  REQUIRE(read != nullptr);
  return read();
}

kto::Decoder decoder(at::Device where) {
  const kto::Json config = {
      {"model_type", "llama"},  {"vocab_size", toy::vocabulary}, {"hidden_size", 32},        {"intermediate_size", 40},
      {"num_hidden_layers", 2}, {"num_attention_heads", 2},      {"num_key_value_heads", 1}, {"head_dim", 16}};
  kto::Decoder out =
      kto::make_decoder(kto::parse_model_config(config, "config.json"),
                        [&](const std::string& name, const std::vector<std::int64_t>& shape) {
                          return kto::test::case_weight(name, shape).to(where, at::kFloat).requires_grad_(true);
                        });
  out.compute = at::kFloat;
  return out;
}

struct Run {
  kto::NamedTensors weights;
  kto::Json log;
  std::vector<GuardedCounts> at_step;  ///< when each began, and at the end
};

Run run(at::Device where, kto::TrainConfig config) {
  const kto::Decoder model = decoder(where);
  Run out;
  kto::Callback count;
  if (!where.is_cpu())
    count.on_step_begin = [&](const kto::TrainerState&, kto::Control&) { out.at_step.push_back(counts()); };
  config.logging_steps = config.max_steps;
  kto::Trainer trainer{.model = model,
                       .collator = kto::PackedCollator{},
                       .loss = kto::Kto{},
                       .reference = kto::live_reference(model),
                       .config = config,
                       .callbacks = {count}};
  out.log = trainer.train(toy::rows(8)).log_history;
  for (const auto& [name, tensor] : model.named_parameters()) out.weights.emplace_back(name, tensor.detach().cpu());
  return out;
}

}  // namespace

TEST_CASE("the trainer on a device: the CPU's numbers, and what each step copies and allocates", "[.][guarded]") {
  kto::TrainConfig config{.per_device_train_batch_size = 4, .max_steps = 6, .learning_rate = 0.01};
  for (const std::int64_t accumulate : {1, 2}) {
    config.gradient_accumulation_steps = accumulate;
    const Run want = run(at::kCPU, config), got = run(device(), config);
    for (std::size_t i = 0; i < want.weights.size(); ++i) {
      INFO(want.weights[i].first);
      CHECK(kto::test::largest(got.weights[i].second - want.weights[i].second) < 1e-4);
    }
    for (const auto& [name, value] : want.log[0].items()) {
      INFO(name);
      CHECK(got.log[0][name].get<double>() == Approx(value.get<double>()).epsilon(1e-3).margin(1e-4));
    }
    for (std::size_t i = 1; i < got.at_step.size(); ++i) {
      const GuardedCounts &a = got.at_step[i - 1], &b = got.at_step[i];
      std::printf(
          "step %zu: kernels %ld backward %ld queued %ld waited %ld to_host %ld scalars %ld (last after %ld) new %ld\n",
          i, b.kernels - a.kernels, b.backward_kernels - a.backward_kernels, b.queued_to_device - a.queued_to_device,
          b.waited_to_device - a.waited_to_device, b.to_host - a.to_host, b.scalars_to_host - a.scalars_to_host,
          b.kernels_at_last_scalar - a.kernels, b.new_blocks - a.new_blocks);
    }
  }
}
