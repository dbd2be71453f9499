// SPDX-License-Identifier: Apache-2.0
// Log-probs of scored tokens, the full softmax beside tiles, over vocabulary and tokens:
//   full        full_token_scores(head_logits(...)), the oracle: what a program in plain LibTorch does
//   full_fast   the same, on the matrix product that kto uses (kto/model/matmul.hpp), so that only the tiling differs
//   chunked     chunked_token_scores, what kto trains with
// A benchmark is called pass/side/vocabulary/tokens. peak_bytes is what the process's resident size grew by at most in
// one pass, as Linux counts it: outputs, gradients and scratch, without weights and states. It is missing where
// /proc/self/clear_refs cannot be written.
#include <benchmark/benchmark.h>
#include <torch/headeronly/version.h>

#include <fstream>
#include <limits>
#include <map>
#include <vector>

#include "kto/core/allocator.hpp"
#include "kto/logprob/chunked.hpp"
#include "kto/model/affine.hpp"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

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

/// Bytes of the line `key` in /proc/self/status; negative where there is none.
double status_bytes(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string word; file >> word; file.ignore(std::numeric_limits<std::streamsize>::max(), '\n'))
    if (double kibibytes = -1; word == key && file >> kibibytes) return kibibytes * 1024;
  return -1;
}

/// Growth of the resident size during `work`, at its highest; negative where it cannot be measured.
template <class Work>
double peak_growth(const Work& work) {
#if defined(__GLIBC__)
  ::malloc_trim(0);  // or the pass would live on memory that an earlier one left
#endif
  std::ofstream reset("/proc/self/clear_refs");
  if (!(reset << 5 << std::flush)) return -1;
  const double before = status_bytes("VmRSS:");
  work();
  return status_bytes("VmHWM:") - before;
}

void measure(const std::string& side, Tensor (*score)(const Problem&)) {
  score(make_problem(8192, 128)).sum().backward();  // what libraries set up once is not the first benchmark's
  for (const bool backward : {false, true}) {
    const std::string name = (backward ? "forward+backward/" : "forward/") + side;
    const auto run = [=, peaks = std::map<std::vector<std::int64_t>, double>()](benchmark::State& state) mutable {
      const Problem in = make_problem(state.range(0), state.range(1));
      const at::AutoGradMode mode(backward);
      const auto step = [&] {
        const Tensor logp_C = score(in);
        if (backward)
          benchmark::DoNotOptimize(torch::autograd::grad({logp_C.sum()}, {in.hidden_CD, in.head.weight_VD}));
        else
          benchmark::DoNotOptimize(logp_C);
      };
      const std::vector shape{state.range(0), state.range(1)};
      if (!peaks.contains(shape)) peaks[shape] = peak_growth(step);  // once, not for each repetition
      for (auto _ : state) step();
      state.SetItemsProcessed(state.iterations() * state.range(1));
      if (peaks[shape] >= 0) state.counters["peak_bytes"] = peaks[shape];
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
