// SPDX-License-Identifier: Apache-2.0
// The chunked log-probs against their oracle, the full softmax: values, statistics and gradients.
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>

#include <cmath>

#include "catch.hpp"
#include "kto/logprob/chunked.hpp"

namespace test_chunked {

using at::Tensor;

namespace {

struct Case {
  Tensor hidden_CD, target_C, grad_C;
  kto::Head head;
};

Case make_case(at::ScalarType dtype, bool bias, double scale, double soft_cap, std::int64_t D = 16) {
  at::manual_seed(7);
  const std::int64_t C = 23, V = 101;
  const auto options = at::TensorOptions().dtype(dtype);
  const auto leaf = [&](at::IntArrayRef shape) {
    return (at::randn(shape, at::kDouble) * 0.7).to(options).requires_grad_(true);
  };
  Case out{.hidden_CD = leaf({C, D}),
           .target_C = at::randint(V, {C}, at::kLong),
           .grad_C = at::randn({C}, at::kDouble),
           .head = {}};
  out.head = {.weight_VD = leaf({V, D}), .bias_V = std::nullopt, .scale = scale, .soft_cap = soft_cap};
  if (bias) out.head.bias_V = leaf({V});
  return out;
}

/// Gradients of sum(grad_C * logp_C) by hidden, weight and bias.
std::vector<Tensor> gradients(const Case& in, const Tensor& logp_C) {
  std::vector<Tensor> leaves{in.hidden_CD, in.head.weight_VD};
  if (in.head.bias_V) leaves.push_back(*in.head.bias_V);
  for (Tensor& leaf : leaves) leaf.mutable_grad() = Tensor();
  (logp_C * in.grad_C.to(logp_C.scalar_type())).sum().backward();
  std::vector<Tensor> grads;
  for (const Tensor& leaf : leaves) grads.push_back(leaf.grad().clone());
  return grads;
}

double difference(const Tensor& a, const Tensor& b) {
  return ((a - b).abs().max() / b.abs().max().clamp_min(1e-12)).item<double>();
}

}  // namespace

TEST_CASE("chunked log-probs equal the full softmax, values and gradients") {
  const auto dtype = GENERATE(at::kDouble, at::kFloat);
  const bool bias = GENERATE(false, true);
  const double scale = GENERATE(1.0, 0.25), soft_cap = GENERATE(0.0, 3.0);
  const std::int64_t block = GENERATE(1, 7, 1000), slice = GENERATE(1, 40, 1000);
  const double tolerance = dtype == at::kDouble ? 1e-12 : 2e-5;
  const Case in = make_case(dtype, bias, scale, soft_cap);

  const auto full = kto::full_token_scores(kto::head_logits(in.hidden_CD, in.head), in.target_C, true);
  const auto chunked =
      kto::chunked_token_scores(in.hidden_CD, in.head, in.target_C, true,
                                {.block_tokens = block, .tile_elements = slice * std::min<std::int64_t>(block, 23)});
  CHECK(difference(chunked.logp_C, full.logp_C) < tolerance);
  CHECK(difference(chunked.entropy_C, full.entropy_C) < tolerance);
  CHECK(difference(chunked.mean_logit_C, full.mean_logit_C) < 10 * tolerance);
  CHECK_FALSE(chunked.entropy_C.requires_grad());

  const auto want = gradients(in, full.logp_C), got = gradients(in, chunked.logp_C);
  for (std::size_t i = 0; i < want.size(); ++i) CHECK(difference(got[i], want[i]) < 10 * tolerance);
}

TEST_CASE("bfloat16 states and float32 head: log-probs come in float32, gradients in the dtype of their leaf") {
  Case in = make_case(at::kFloat, false, 1, 0);
  in.hidden_CD = in.hidden_CD.detach().to(at::kBFloat16).requires_grad_(true);
  const auto full = kto::full_token_scores(kto::head_logits(in.hidden_CD, in.head), in.target_C, true);
  const auto chunked =
      kto::chunked_token_scores(in.hidden_CD, in.head, in.target_C, true, {.block_tokens = 10, .tile_elements = 500});
  CHECK(chunked.logp_C.scalar_type() == at::kFloat);
  CHECK(difference(chunked.logp_C, full.logp_C) < 1e-2);
  const auto grads = gradients(in, chunked.logp_C);
  CHECK(grads[0].scalar_type() == at::kBFloat16);
  CHECK(grads[1].scalar_type() == at::kFloat);
}

TEST_CASE("products in bfloat16 round the logits, but not the targets'") {
  const bool bias = GENERATE(false, true);
  Case in = make_case(at::kFloat, bias, 1, 0);
  const auto narrow = [](const Tensor& tensor) { return tensor.detach().to(at::kBFloat16); };
  in.hidden_CD = (narrow(in.hidden_CD) * 8).requires_grad_(true);  // logits of some tens
  if (kto::detail::needs_widening(in.hidden_CD)) {
    WARN("skipped: without products of bfloat16 no logit is rounded here");
    return;
  }
  const auto wide = [&](const Tensor& tensor) { return narrow(tensor).to(at::kDouble); };
  Tensor exact_CV = at::matmul(wide(in.hidden_CD), wide(in.head.weight_VD).t());
  if (bias) exact_CV = exact_CV + wide(*in.head.bias_V);
  const Tensor target_C1 = in.target_C.unsqueeze(-1);
  const Tensor rounded_CV = exact_CV.to(at::kBFloat16).to(at::kDouble);
  const Tensor oracle_CV = rounded_CV.scatter(-1, target_C1, exact_CV.gather(-1, target_C1));

  const auto chunked =
      kto::chunked_token_scores(in.hidden_CD, in.head, in.target_C, true, {.block_tokens = 10, .tile_elements = 70});
  const auto want = kto::full_token_scores(oracle_CV, in.target_C, true);
  const auto rounded = kto::full_token_scores(rounded_CV, in.target_C, true);
  const double error = difference(chunked.logp_C, want.logp_C);
  CHECK(error < 1e-3);
  CHECK(difference(rounded.logp_C, want.logp_C) > 4 * error);
  CHECK(difference(chunked.entropy_C, want.entropy_C) < 1e-2);

  const Tensor logits_CV = oracle_CV.detach().requires_grad_(true);
  kto::full_token_scores(logits_CV, in.target_C, false).logp_C.backward(in.grad_C.to(at::kDouble));
  const Tensor grad_CD = at::matmul(logits_CV.grad(), wide(in.head.weight_VD));
  CHECK(difference(gradients(in, chunked.logp_C)[0].to(at::kDouble), grad_CD) < 1e-2);
}

TEST_CASE("narrow products with float32 sums round no logit") {
  const auto type = GENERATE(at::kBFloat16, at::kHalf);
  const bool bias = GENERATE(false, true), float_head = GENERATE(false, true);
  const double scale = GENERATE(1.0, 0.25), soft_cap = GENERATE(0.0, 30.0);
  if (type == at::kBFloat16 && kto::detail::has_products_of(type) && !kto::detail::has_bf16_product()) {
    WARN("skipped: LibTorch's own products round here");
    return;
  }
  Case in = make_case(at::kFloat, bias, scale, soft_cap, /*D=*/64);
  const auto narrow = [type](const Tensor& tensor) { return tensor.detach().to(type); };
  in.hidden_CD = (narrow(in.hidden_CD) * 8).requires_grad_(true);
  if (!float_head) in.head.weight_VD = narrow(in.head.weight_VD).requires_grad_(true);
  Case exact = in;
  const auto widen = [&](Tensor& tensor) { tensor = narrow(tensor).to(at::kDouble).requires_grad_(true); };
  widen(exact.hidden_CD), widen(exact.head.weight_VD);
  if (bias) widen(*exact.head.bias_V);
  const auto want = kto::full_token_scores(kto::head_logits(exact.hidden_CD, exact.head), in.target_C, true);
  const auto got =
      kto::chunked_token_scores(in.hidden_CD, in.head, in.target_C, true, {.block_tokens = 10, .tile_elements = 700});
  CHECK(difference(got.logp_C, want.logp_C) < 1e-5);
  CHECK(difference(got.entropy_C, want.entropy_C) < 1e-4);
  CHECK(difference(got.mean_logit_C, want.mean_logit_C) < 1e-4);
  const auto want_grads = gradients(exact, want.logp_C), got_grads = gradients(in, got.logp_C);
  for (std::size_t i = 0; i < want_grads.size(); ++i)
    CHECK(difference(got_grads[i].to(at::kDouble), want_grads[i]) < 1e-2);
}

TEST_CASE("both passes have the same logits, whatever the types of states and head") {
  const auto type = GENERATE(at::kFloat, at::kBFloat16, at::kHalf);
  CAPTURE(type);
  Case in = make_case(at::kFloat, /*bias=*/true, 1, 0, /*D=*/64);
  in.hidden_CD = (in.hidden_CD.detach() * 8).to(at::kBFloat16).requires_grad_(true);
  in.head.weight_VD = in.head.weight_VD.detach().to(type).requires_grad_(true);
  const auto scores = kto::chunked_token_scores(in.hidden_CD, in.head, in.target_C, false);
  const Tensor grad_V = gradients(in, scores.logp_C)[2];
  // 1[v = t] - softmax(z), whose sum is 0 where the softmax is that of the sum of the forward pass
  CHECK(std::abs(grad_V.sum().item<double>()) < 1e-5 * grad_V.abs().sum().item<double>());
}

TEST_CASE("a tile is as large as the call says, or else the head") {
  Case in = make_case(at::kFloat, false, 1, 0);
  const auto slice = [&](const kto::ChunkedOptions& options) {
    return kto::detail::make_tiling(23, in.head, options).slice;
  };
  CHECK(slice({}) == in.head.weight_VD.size(0));  // all of a small vocabulary
  in.head.tile_elements = 23 * 7;
  CHECK(slice({}) == 7);
  CHECK(slice({.tile_elements = 23 * 9}) == 9);
  in.head.tile_elements = 1;
  CHECK(slice({}) == 1);
}

TEST_CASE("no scored token gives empty scores and zero gradients") {
  Case in = make_case(at::kFloat, true, 1, 0);
  in.hidden_CD = in.hidden_CD.detach().slice(0, 0, 0).requires_grad_(true);
  in.target_C = in.target_C.slice(0, 0, 0);
  in.grad_C = in.grad_C.slice(0, 0, 0);
  const auto scores = kto::chunked_token_scores(in.hidden_CD, in.head, in.target_C, true);
  CHECK(scores.logp_C.numel() == 0);
  CHECK(gradients(in, scores.logp_C)[1].abs().sum().item<double>() == 0);
}

}  // namespace test_chunked
