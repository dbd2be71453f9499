// SPDX-License-Identifier: Apache-2.0
// Experts on a device, all rows at once, against those of the CPU, which work expert by expert.
#include <ATen/ops/randn.h>

#include "catch.hpp"
#include "device/guarded_counts.hpp"
#include "kto/nn/experts.hpp"

namespace kto::test_experts {
namespace {

constexpr std::int64_t N = 23, K = 2, E = 7, D = 16, M = 24;

/// The output and all gradients, each made once and added to once.
std::vector<Tensor> run(at::Device device, at::ScalarType compute, bool as_gpt_oss) {
  at::manual_seed(5);
  const auto noise = [&](at::IntArrayRef shape) { return at::randn(shape).to(device); };
  const auto leaf = [&](at::IntArrayRef shape) { return noise(shape).requires_grad_(true); };
  // The last expert has no rows.
  const Tensor expert_NK = std::get<1>(at::randn({N, E - 1}).topk(K, -1)).to(device), probe_ND = noise({N, D}),
               x_ND = leaf({N, D}), weight_NK = leaf({N, K});
  const ExpertGate gate{.is_interleaved = as_gpt_oss, .is_clamped = as_gpt_oss, .alpha = 1.7, .limit = 2};
  Experts experts;
  experts.is_transposed = as_gpt_oss;
  experts.gate_up = leaf(as_gpt_oss ? at::IntArrayRef{E, D, 2 * M} : at::IntArrayRef{E, 2 * M, D});
  experts.down = leaf(as_gpt_oss ? at::IntArrayRef{E, M, D} : at::IntArrayRef{E, D, M});
  if (as_gpt_oss) {
    experts.gate_up_bias_EO = leaf({E, 2 * M});
    experts.down_bias_ED = leaf({E, D});
  }
  const InPlaceGradients in_place;
  Tensor out_ND;
  for (int pass = 0; pass < 2; ++pass) {
    out_ND = apply_experts(gate, experts, x_ND.to(compute), expert_NK, weight_NK);
    (out_ND * probe_ND).sum().backward();
  }
  std::vector<Tensor> out{out_ND.detach()};
  for (const Tensor& each :
       {x_ND, weight_NK, experts.gate_up, experts.down, experts.gate_up_bias_EO, experts.down_bias_ED})
    if (each.defined()) out.push_back(each.grad());
  return out;
}

/// `watch` calls what runs on the device.
template <class Watch>
void check_on(at::Device device, const Watch& watch) {
  for (const bool as_gpt_oss : {false, true}) {
    const auto want = run(at::kCPU, at::kFloat, as_gpt_oss);
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      std::vector<Tensor> got;
      watch(type, [&] { got = run(device, type, as_gpt_oss); });
      for (std::size_t i = 0; i < want.size(); ++i) {
        const double off = (got[i].cpu() - want[i]).norm().item<double>() / want[i].norm().item<double>();
        CAPTURE(as_gpt_oss, type, i, off);
        CHECK(off <= (type == at::kFloat ? 1e-5 : 2e-2));
      }
    }
  }
}

TEST_CASE("experts on a device: the host waits for the numbers of rows once a pass, in bfloat16 never",
          "[.][guarded]") {
  check_on(at::Device("guarded:1"), [](at::ScalarType type, const auto& work) {
    const auto before = ask_guarded<GuardedCounts>("guarded_counts");
    work();
    const auto after = ask_guarded<GuardedCounts>("guarded_counts");
    CHECK(after.to_host - before.to_host == (type == at::kFloat ? 2 : 0));
    CHECK(after.scalars_to_host == before.scalars_to_host);
  });
}

TEST_CASE("experts on a GPU are experts", "[gpu]") {
  if (at::hasCUDA()) check_on(at::kCUDA, [](at::ScalarType, const auto& work) { work(); });
}

}  // namespace
}  // namespace kto::test_experts
