// SPDX-License-Identifier: Apache-2.0
// A decoder and the trainer on a device that catches mistakes (tests/device/guarded_device.cpp), in a process into which
// it is preloaded: ctest -R guarded_device. Everywhere else these cases are hidden.
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>

#include "catch.hpp"
#include "device/guarded_counts.hpp"
#include "examples/toy.hpp"
#include "kto/collate/packed.hpp"
#include "kto/loss/kto.hpp"
#include "kto/nn/affine.hpp"
#include "tests/model/model_cases.hpp"

namespace test_device {

using kto::Tensor;

namespace {

/// Not the device that a kind without a number is.
const at::Device& device() {
  static const at::Device second("guarded:1");
  return second;
}

GuardedCounts counts() { return ask_guarded<GuardedCounts>("guarded_counts"); }

/// Dense in float32, or with experts in bfloat16.
kto::Decoder decoder(at::Device where, bool with_experts = false) {
  kto::Json config = {
      {"model_type", "llama"},  {"vocab_size", toy::vocabulary}, {"hidden_size", 32},        {"intermediate_size", 40},
      {"num_hidden_layers", 2}, {"num_attention_heads", 2},      {"num_key_value_heads", 1}, {"head_dim", 16}};
  if (with_experts) config.update({{"model_type", "mixtral"}, {"num_local_experts", 4}, {"num_experts_per_tok", 2}});
  kto::Decoder out =
      kto::make_decoder(kto::parse_model_config(config, "config.json"),
                        [&](const std::string& name, const std::vector<std::int64_t>& shape) {
                          return kto::test::case_weight(name, shape).to(where, at::kFloat).requires_grad_(true);
                        });
  out.compute = with_experts ? at::kBFloat16 : at::kFloat;
  return out;
}

struct Run {
  kto::NamedTensors weights;
  kto::Json log;
  std::vector<GuardedCounts> at_step;  ///< when each began, and at the end
};

/// The rows once, in blocks of three.
kto::RowStream stream_of(const std::vector<kto::Example>& rows) {
  return kto::RowStream([rows] {
    return [rows, at = std::size_t{0}]() mutable {
      const std::size_t begin = std::exchange(at, std::min(at + 3, rows.size()));
      return std::vector<kto::Example>(rows.begin() + static_cast<std::ptrdiff_t>(begin),
                                       rows.begin() + static_cast<std::ptrdiff_t>(at));
    };
  });
}

Run run(at::Device where, const kto::TrainConfig& config, bool streamed = false, bool with_experts = false) {
  const kto::Decoder model = decoder(where, with_experts);
  Run out;
  kto::Callback count;
  if (!where.is_cpu())
    count.on_step_begin = [&](const kto::TrainerState&, kto::Control&) { out.at_step.push_back(counts()); };
  kto::Trainer trainer{.model = model,
                       .collator = kto::PackedCollator{},
                       .loss = kto::Kto{},
                       .reference = kto::live_reference(model),
                       .config = config,
                       .callbacks = {count}};
  const std::vector<kto::Example> rows = toy::rows(72);
  out.log = (streamed ? trainer.train(stream_of(rows)) : trainer.train(rows)).log_history;
  for (const auto& [name, tensor] : model.named_parameters()) out.weights.emplace_back(name, tensor.detach().cpu());
  return out;
}

/// How a child of this process ends that does `work`: its status, and what it said.
template <class Work>
std::pair<int, std::string> end_of(const Work& work) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const ::pid_t child = ::fork();
  if (child == 0) {
    ::dup2(ends[1], 2);
    ask_guarded<void>("guarded_watch");  // Catch2 has its own handler
    work();
    ::_exit(0);
  }
  ::close(ends[1]);
  std::string said;
  char part[4096];
  for (::ssize_t size; (size = ::read(ends[0], part, sizeof part)) > 0;)
    said.append(part, static_cast<std::size_t>(size));
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, said};
}

}  // namespace

TEST_CASE("the guarded device catches a host pointer, the CPU's kernels, and a tensor of another device",
          "[.][guarded]") {
  const Tensor x_ND = at::ones({4, 32}, at::TensorOptions(device())), weight_D = x_ND[0];
  const auto touched = [](const auto& work) {
    const auto [status, said] = end_of(work);
    CHECK(status == 86);
    CHECK_THAT(said, KTO_CONTAINS("the host touched memory of the device"));
  };
  CHECK(end_of([] {}).first == 0);
  CHECK(kto::usual_device() == at::Device("guarded"));
  touched([&] { *x_ND.mutable_data_ptr<float>() = 1; });
  touched([&] {
    (void)kto::detail::Normalized::apply(x_ND, std::optional(weight_D), std::optional<Tensor>(), kto::NormSpec{},
                                         at::kFloat);
  });
  const Tensor q_NHd = x_ND.view({4, 2, 16});
  touched([&] { (void)kto::detail::blocked_attention(q_NHd, q_NHd, q_NHd, {}, {{.length = 4}}, {}, {}); });

  CHECK_THROWS_WITH(x_ND + at::ones({4, 32}), KTO_CONTAINS("guarded:1"));
  CHECK_THROWS_WITH(at::mm(x_ND, at::ones({32, 2})), KTO_CONTAINS("cpu"));
  CHECK_THROWS_WITH(x_ND + at::ones({4, 32}, at::Device("guarded:0")), KTO_CONTAINS("guarded:0"));
  CHECK_THROWS_WITH(x_ND.to(at::kCPU, /*non_blocking=*/true), KTO_CONTAINS("before it is made"));
  CHECK(std::isnan(at::empty({4, 32}, x_ND.options()).sum().item<double>()));  // not what freed memory held
}

TEST_CASE("scopes of weights reach the thread that a device's backward pass runs on", "[.][guarded]") {
  const Tensor x_NI = at::ones({4, 32}, at::TensorOptions(device()));
  const Tensor weight_OI = at::ones({8, 32}, x_NI.options()).requires_grad_(true);
  const kto::InPlaceGradients in_place;
  const auto before = counts();
  const Tensor out = kto::affine(x_NI, weight_OI);
  const auto seen = torch::autograd::grad({out.sum()}, {weight_OI}, {}, std::nullopt, false, /*allow_unused=*/true);
  CHECK(counts().backward_kernels > before.backward_kernels);
  CHECK_FALSE(seen[0].defined());
  REQUIRE(weight_OI.grad().defined());
  CHECK(weight_OI.grad().sum().item<double>() == 4 * 8 * 32);
}

TEST_CASE("the trainer on a device: the CPU's numbers, and what a step copies and allocates", "[.][guarded]") {
  kto::TrainConfig config{.per_device_train_batch_size = 4, .max_steps = 9, .learning_rate = 0.01};
  config.logging_steps = 3;
  config.train_sampling_strategy = kto::SamplingStrategy::sequential;
  for (const auto& [accumulate, streamed, with_experts] : {std::tuple{1, false, false}, std::tuple{2, false, false},
                                                           std::tuple{1, true, false}, std::tuple{2, false, true}}) {
    CAPTURE(accumulate, streamed, with_experts);
    config.gradient_accumulation_steps = accumulate;
    const Run got = run(device(), config, streamed, with_experts);
    // In bfloat16 a token between two experts may go to the other.
    const Run want = with_experts ? Run{} : run(at::kCPU, config, streamed);
    for (std::size_t i = 0; i < want.weights.size(); ++i) {
      INFO(want.weights[i].first);
      CHECK(kto::test::largest(got.weights[i].second - want.weights[i].second) < 1e-4);
    }
    REQUIRE(got.log.size() == (with_experts ? 4 : want.log.size()));
    for (std::size_t i = 0; i < want.log.size(); ++i)
      for (const auto& [name, value] : want.log[i].items()) {
        INFO(name);
        if (name.find("per_second") == name.npos && name.find("runtime") == name.npos)
          CHECK(got.log[i][name].get<double>() == Approx(value.get<double>()).epsilon(1e-3).margin(1e-4));
      }
    REQUIRE(got.at_step.size() == 9);
    const auto queued = [&](std::size_t step) {
      return got.at_step[step].queued_to_device - got.at_step[step - 1].queued_to_device;
    };
    // The first step sends its own window, and as all others the next one; with experts each pass its tokens' weights.
    CHECK((with_experts ? 2 : 1) * queued(1) >= (with_experts ? 3 : 2) * queued(2));
    for (std::size_t step = 2; step < 9; ++step) {
      CAPTURE(step);
      const GuardedCounts &a = got.at_step[step - 1], &b = got.at_step[step];
      CHECK(b.backward_kernels > a.backward_kernels);
      CHECK(b.waited_to_device == a.waited_to_device);  // all from pinned memory
      if (step % 3 == 0) continue;                      // it logs
      CHECK(b.scalars_to_host == a.scalars_to_host + 1);
      CHECK(b.to_host == a.to_host);
      CHECK(b.queued_to_device == b.queued_at_last_scalar);  // before the host waits
      const std::int64_t of_update = b.kernels - b.kernels_at_last_scalar;
      CHECK(of_update * 10 < b.kernels - a.kernels);  // it waits once, when nothing but the update is left
      if (step > 6) CHECK(b.new_blocks == a.new_blocks);
    }
  }
}

}  // namespace test_device
