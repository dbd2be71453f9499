// SPDX-License-Identifier: Apache-2.0
// Log-probs of scored tokens, full softmax against tiles, by vocabulary and number of tokens:
//   full        full_token_scores(head_logits(...)), the oracle: what a plain LibTorch program does
//   full_fast   the same with kto's matrix product (kto/nn/matmul.hpp), so that only the tiling differs
//   chunked     chunked_token_scores, what kto trains with
// A benchmark is named pass/side/vocabulary/tokens. peak_bytes is the peak size of the tensors of one pass, without
// weights, states and the gradients of both: as in training, these exist before the pass, which adds to them.
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <benchmark/benchmark.h>
#include <torch/headeronly/version.h>

#include <atomic>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "kto/core/allocator.hpp"
#include "kto/logprob/chunked.hpp"
#include "kto/nn/affine.hpp"

namespace {

using at::Tensor;

// Shapes: C scored tokens, V vocabulary, D width.

constexpr std::int64_t width = 576;  // SmolLM2-135M's

#if defined(__clang__)
constexpr const char* compiler = __VERSION__;  // "Clang 19..."
#else
constexpr const char* compiler = "g++ " __VERSION__;
#endif

struct Problem {
  Tensor hidden_CD;
  kto::Head head;
  Tensor target_C;
};

Problem make_problem(std::int64_t vocabulary, std::int64_t tokens) {
  at::manual_seed(1);
  return {.hidden_CD = at::randn({tokens, width}).requires_grad_(true),
          .head = {.weight_VD = at::randn({vocabulary, width}).mul_(0.05).requires_grad_(true)},
          .target_C = at::randint(vocabulary, {tokens}, at::kLong)};
}

Tensor full(const Problem& in) {
  return kto::full_token_scores(kto::head_logits(in.hidden_CD, in.head), in.target_C, false).logp_C;
}
Tensor full_fast(const Problem& in) {
  return kto::full_token_scores(kto::affine(in.hidden_CD, in.head.weight_VD), in.target_C, false).logp_C;
}
Tensor chunked(const Problem& in) {
  return kto::chunked_token_scores(in.hidden_CD, in.head, in.target_C, false).logp_C;
}

/// Measures the peak size of tensors created while it lives.
class PeakCounter final : public c10::Allocator {
 public:
  PeakCounter() { c10::SetCPUAllocator(this, /*priority=*/2); }
  ~PeakCounter() override { c10::SetCPUAllocator(&below_, /*priority=*/2); }
  PeakCounter(const PeakCounter&) = delete;
  PeakCounter& operator=(const PeakCounter&) = delete;

  static void reset() { most = live.load(); }
  static std::int64_t now() { return live; }
  static std::int64_t peak() { return most; }

  at::DataPtr allocate(std::size_t bytes) override {
    at::DataPtr block = below_.allocate(bytes);
    void* start = block.get();
    if (start == nullptr) return block;
    live += static_cast<std::int64_t>(bytes);
    most = std::max(most.load(), live.load());
    const std::lock_guard lock(mutex);
    blocks.insert_or_assign(start, Counted{std::move(block), static_cast<std::int64_t>(bytes)});
    return {start, start, &release, at::Device(at::kCPU)};  // oneDNN expects the block itself as the context
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t count) const override { default_copy_data(to, from, count); }

 private:
  struct Counted {
    at::DataPtr block;
    std::int64_t bytes;
  };
  static void release(void* start) {
    const std::lock_guard lock(mutex);
    const auto counted = blocks.extract(start);
    live -= counted.mapped().bytes;
  }
  inline static std::mutex mutex;
  inline static std::unordered_map<void*, Counted> blocks;
  c10::Allocator& below_ = *c10::GetCPUAllocator();
  inline static std::atomic<std::int64_t> live = 0, most = 0;
};

/// The peak size of tensors during `work`, beyond those that existed before.
template <class Work>
double peak_bytes(const Work& work) {
  const PeakCounter counter;
  PeakCounter::reset();
  const std::int64_t before = PeakCounter::now();
  work();
  return static_cast<double>(PeakCounter::peak() - before);
}

void measure(const std::string& side, Tensor (*score)(const Problem&)) {
  score(make_problem(8192, 128)).sum().backward();  // keep the one-time set-up of libraries out of the first benchmark
  for (const bool backward : {false, true}) {
    const std::string name = (backward ? "forward+backward/" : "forward/") + side;
    const auto run = [=, peaks = std::map<std::vector<std::int64_t>, double>()](benchmark::State& state) mutable {
      const Problem in = make_problem(state.range(0), state.range(1));
      if (backward)
        for (const Tensor& leaf : {in.hidden_CD, in.head.weight_VD}) leaf.mutable_grad() = at::zeros_like(leaf);
      const at::AutoGradMode mode(backward);
      const auto step = [&] {
        const kto::InPlaceGradients in_place;
        const Tensor logp_C = score(in);
        if (backward) logp_C.sum().backward();
        benchmark::DoNotOptimize(logp_C);
      };
      const std::vector shape{state.range(0), state.range(1)};
      if (!peaks.contains(shape)) peaks[shape] = peak_bytes(step);  // once, not for each repetition
      for (auto _ : state) step();
      state.SetItemsProcessed(state.iterations() * state.range(1));
      state.counters["peak_bytes"] = peaks[shape];
    };
    benchmark::RegisterBenchmark(name.c_str(), run)
        ->ArgsProduct({{8192, 49152, 151936}, {128, 512, 2048}})
        ->Unit(benchmark::kMillisecond)
        ->UseRealTime();
  }
}

}  // namespace

int main(int argc, char** argv) {
  kto::keep_freed_memory();  // as the training program does
  benchmark::AddCustomContext("compiler", compiler);
  benchmark::AddCustomContext("libtorch", TORCH_VERSION);
  benchmark::AddCustomContext("threads", std::to_string(at::get_num_threads()));
  benchmark::AddCustomContext("product", kto::matmul_backend() == kto::MatmulBackend::onednn ? "oneDNN" : "at::linear");
  benchmark::AddCustomContext("width", std::to_string(width));
  measure("full", full);
  measure("full_fast", full_fast);
  measure("chunked", chunked);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
}
