// SPDX-License-Identifier: Apache-2.0
// Each kernel of a training step against what bounds it on this machine, at SmolLM2-135M's widths: those that multiply
// against a float32 product of the same library, in operations per second; those that move numbers against a copy, in
// bytes per second. Each is timed right beside its bound, round after round, and the median of the ratios is printed,
// which other work on the machine moves little. Printed as JSON.
//
// usage: bench_kernels [ROUNDS [FILTER]]      (environment: ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA hold it back)
#include <ATen/Version.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "kto/core/allocator.hpp"
#include "kto/logprob/chunked.hpp"
#include "kto/nn/attention.hpp"
#include "kto/nn/blocks.hpp"
#include "kto/nn/rotate.hpp"

namespace {

using at::Tensor;
using Work = std::function<void()>;

// Shapes: N tokens, D width, M intermediate width, H heads, K key/value heads, d head dimension, V vocabulary.
constexpr std::int64_t N = 1024, D = 576, M = 1536, H = 9, K = 3, d = 64, V = 49152, L = 512;

double seconds(const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// While it lives, counts the tensors that are made, and their bytes.
class AllocationCounter final : public c10::Allocator {
 public:
  AllocationCounter() { c10::SetCPUAllocator(this, /*priority=*/2); }
  ~AllocationCounter() override { c10::SetCPUAllocator(&below_, /*priority=*/2); }
  AllocationCounter(const AllocationCounter&) = delete;
  AllocationCounter& operator=(const AllocationCounter&) = delete;

  at::DataPtr allocate(std::size_t size) override {
    ++count;
    bytes += static_cast<std::int64_t>(size);
    return below_.allocate(size);
  }
  c10::DeleterFnPtr raw_deleter() const override { return below_.raw_deleter(); }
  void copy_data(void* to, const void* from, std::size_t size) const override { default_copy_data(to, from, size); }

  std::atomic<std::int64_t> count = 0, bytes = 0;

 private:
  c10::Allocator& below_ = *c10::GetCPUAllocator();
};

/// A kernel: what it does, and how many operations or bytes that takes.
struct Kernel {
  std::string name;
  double amount;
  bool moves_bytes;
  Work work;
};

/// The output and the gradients of its inputs, as a training step makes them.
void forward_and_backward(const Tensor& out, const Tensor& grad) { out.backward(grad); }

std::vector<Kernel> make_kernels() {
  std::vector<Kernel> out;
  const std::vector<std::pair<std::string, at::ScalarType>> types{
      {"float32", at::kFloat}, {"bfloat16", at::kBFloat16}, {"float16", at::kHalf}};
  const auto random = [](at::IntArrayRef shape, at::ScalarType type) { return at::randn(shape).to(type); };
  const kto::NormSpec norm{.eps = 1e-5};
  for (const auto& [type_name, type] : types) {
    const auto bytes = static_cast<double>(c10::elementSize(type));
    const auto add = [&](const std::string& name, double amount, bool moves_bytes, const Work& work) {
      out.push_back({name + "/" + type_name, amount, moves_bytes, work});
    };
    const Tensor x_ND = random({N, D}, type), weight_MD = random({M, D}, type), grad_NM = random({N, M}, type),
                 weight_grad_MD = at::zeros({M, D});
    add("product", 2.0 * N * D * M, false, [=] { kto::matmul_transposed(x_ND, weight_MD); });
    add("product, gradient of its input", 2.0 * N * D * M, false,
        [=] { kto::matmul_transposed(grad_NM, weight_MD.t()); });
    add("product, gradient of its weight", 2.0 * N * D * M, false,
        [=] { kto::detail::add_product(weight_grad_MD, grad_NM.t(), x_ND); });

    const auto leaf = [&](at::IntArrayRef shape) { return random(shape, type).requires_grad_(true); };
    const Tensor q = leaf({N, H, d}), k = leaf({N, K, d}), v = leaf({N, K, d}), weight = random({N, H, d}, type);
    std::vector<kto::Segment> segments;
    for (std::int64_t begin = 0; begin < N; begin += L) segments.push_back({.begin = begin, .length = L});
    const double pairs = static_cast<double>(N) * (L + 1) / 2, products = 2.0 * pairs * d * H;
    const kto::AttentionForm form{.scale = 0.125};
    add("attention, forward", 2 * products, false, [=] {
      const at::NoGradGuard no_grad;
      kto::attention(q, k, v, segments, form);
    });
    add("attention, forward and backward", 7 * products, false,
        [=] { forward_and_backward(kto::attention(q, k, v, segments, form), weight); });

    const Tensor hidden_CD = leaf({N / 2, D}), target_C = at::randint(V, {N / 2}, at::kLong),
                 grad_C = at::ones({N / 2});
    const kto::Head head{.weight_VD = (at::randn({V, D}) * 0.05).requires_grad_(true)};
    head.weight_VD.mutable_grad() = at::zeros({V, D});
    const double logits = static_cast<double>(N) * V * D;  // twice half of the tokens
    add("log-probs, forward", logits, false, [=] {
      const at::NoGradGuard no_grad;
      kto::chunked_token_scores(hidden_CD, head, target_C, true);
    });
    add("log-probs, forward and backward", 4 * logits, false, [=] {
      const kto::InPlaceGradients in_place;
      forward_and_backward(kto::chunked_token_scores(hidden_CD, head, target_C, true).logp_C, grad_C);
    });

    const Tensor stream_ND = at::randn({N, D}).requires_grad_(true), factor_D = at::ones({D}).requires_grad_(true);
    const double numbers = static_cast<double>(N) * D;
    add("norm, forward", numbers * (4 + bytes), true, [=] {
      const at::NoGradGuard no_grad;
      kto::normalized(norm, {factor_D, {}}, stream_ND, type);
    });
    add("norm, forward and backward", numbers * (4 + bytes + 4 + bytes + 4), true,
        [=] { forward_and_backward(kto::normalized(norm, {factor_D, {}}, stream_ND, type), x_ND); });
    const Tensor angles = at::randn({N, d});
    const kto::RopeTables tables{angles.cos(), angles.sin(), false};
    add("rotary, forward", 2 * bytes * static_cast<double>(N * H * d), true, [=] {
      const at::NoGradGuard no_grad;
      kto::apply_rope(q, tables, type);
    });
    const Tensor gate_NM = leaf({N, M}), up_NM = leaf({N, M});
    const double gated = static_cast<double>(N) * M * bytes;
    add("gate, forward", 3 * gated, true, [=] {
      const at::NoGradGuard no_grad;
      kto::gated(kto::Activation::silu, {gate_NM, up_NM});
    });
    add("gate, forward and backward", 8 * gated, true,
        [=] { forward_and_backward(kto::gated(kto::Activation::silu, {gate_NM, up_NM}), grad_NM); });
  }
  return out;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  kto::keep_freed_memory();  // as the training program does
  at::manual_seed(1);
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 5;
  const std::string filter = argc > 2 ? argv[2] : "";
  const Tensor x_ND = at::randn({N, D}), weight_MD = at::randn({M, D}), from = at::randn({N, D}),
               to = at::empty({N, D});
  const double operations = 2.0 * N * D * M, bytes = 8.0 * N * D;
  const Work product = [&] { kto::matmul_transposed(x_ND, weight_MD); }, copy = [&] { to.copy_(from); };
  std::vector<double> product_rates, copy_rates;
  std::string lines;
  for (const Kernel& kernel : make_kernels()) {
    if (kernel.name.find(filter) == std::string::npos) continue;
    kernel.work();
    std::int64_t allocations = 0, allocated = 0;
    {
      const AllocationCounter counter;
      kernel.work();
      allocations = counter.count;
      allocated = counter.bytes;
    }
    std::vector<double> rates, shares;
    for (int round = 0; round < rounds; ++round) {
      const double bound = kernel.moves_bytes ? bytes / seconds(copy) : operations / seconds(product);
      const double rate = kernel.amount / seconds(kernel.work);
      (kernel.moves_bytes ? copy_rates : product_rates).push_back(bound);
      rates.push_back(rate);
      shares.push_back(rate / bound);
    }
    char line[320];
    std::snprintf(line, sizeof line,
                  "%s\n    {\"kernel\": \"%s\", \"%s\": %.1f, \"share_of_bound\": %.2f, \"allocations\": %lld, "
                  "\"MB_allocated\": %.1f}",
                  lines.empty() ? "" : ",", kernel.name.c_str(), kernel.moves_bytes ? "GB_per_s" : "GFLOP_per_s",
                  median(rates) / 1e9, median(shares), static_cast<long long>(allocations),
                  static_cast<double>(allocated) / 1e6);
    lines += line;
  }
  std::printf("{\n  \"libtorch\": \"%s\",\n  \"cpu_capability\": \"%s\",\n  \"threads\": %d,\n  \"product\": \"%s\",\n",
              TORCH_VERSION, at::get_cpu_capability().c_str(), at::get_num_threads(),
              kto::matmul_backend() == kto::MatmulBackend::onednn ? "oneDNN" : "at::linear");
  std::printf("  \"products_of_bfloat16\": %s,\n", kto::detail::has_products_of(at::kBFloat16) ? "true" : "false");
  if (!product_rates.empty()) std::printf("  \"product_GFLOP_per_s\": %.1f,\n", median(product_rates) / 1e9);
  if (!copy_rates.empty()) std::printf("  \"copy_GB_per_s\": %.1f,\n", median(copy_rates) / 1e9);
  std::printf("  \"kernels\": [%s\n  ]\n}\n", lines.c_str());
}
