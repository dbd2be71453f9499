// SPDX-License-Identifier: Apache-2.0
// Causal convolutions and the gated delta rule against their oracles, with prompts that segments share.
#include <ATen/ops/allclose.h>

#include "catch.hpp"
#include "kto/nn/causal_conv.hpp"
#include "kto/nn/delta_rule.hpp"

namespace kto::test::test_mixers {
namespace {

Tensor random(at::IntArrayRef shape, at::Generator& generator) {
  return at::empty(shape, at::kDouble).normal_(0, 1, generator);
}

struct DeltaWidths {
  std::int64_t key = 6, value = 5;
};

DeltaTokens random_tokens(std::int64_t count, at::Generator& generator, const DeltaWidths& widths) {
  const auto unit = [](const Tensor& x) { return x / x.norm(2, {-1}, true); };
  return {unit(random({count, 2, widths.key}, generator)), unit(random({count, 2, widths.key}, generator)),
          random({count, 4, widths.value}, generator), -random({count, 4}, generator).abs() * 0.2,
          random({count, 4}, generator).sigmoid()};
}

template <class Change>
DeltaTokens changed(const DeltaTokens& tokens, const Change& change) {
  const auto each = [&](const Tensor& x) { return x.defined() ? change(x) : x; };
  return {each(tokens.q_NKd), each(tokens.k_NKd), each(tokens.v_NHe), each(tokens.decay_NH), each(tokens.beta_NH)};
}

/// The rule token by token for a segment of `tokens` after its prefix in `prompts`.
DeltaOutput by_token(const DeltaTokens& tokens, const Segment& segment, const DeltaTokens& prompts) {
  const auto slice = [](std::int64_t begin, std::int64_t length) {
    return [=](const Tensor& x) { return x.narrow(0, begin, length); };
  };
  Tensor state = at::zeros({4, tokens.k_NKd.size(2), tokens.v_NHe.size(2)}, at::kDouble);
  if (segment.prefix_length > 0)
    state =
        delta_rule_by_token(changed(prompts, slice(segment.prefix_begin, segment.prefix_length)), state).state_SHde[0];
  return delta_rule_by_token(changed(tokens, slice(segment.begin, segment.length)), state);
}

/// In float64, and in float32, for which there is a kernel.
void check_delta_rule(const std::vector<Segment>& segments, const DeltaTokens& tokens, const DeltaMemory& before,
                      const DeltaTokens& prompts) {
  std::vector<Tensor> outs, states;
  for (const Segment& segment : segments) {
    const DeltaOutput one = by_token(tokens, segment, prompts);
    outs.push_back(one.out_NHe);
    states.push_back(one.state_SHde);
  }
  const Tensor out = at::cat(outs), state = at::cat(states);
  const std::vector<Tensor> inputs{tokens.q_NKd, tokens.k_NKd, tokens.v_NHe, tokens.decay_NH, tokens.beta_NH};
  const auto gradients = [&](const Tensor& a, const Tensor& b) {
    return torch::autograd::grad({(a * (a.detach() + 1)).sum() + b.square().sum()}, inputs);
  };
  const auto expected = gradients(out, state);
  for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
    const auto cast = [&](const Tensor& x) { return x.to(type); };
    const DeltaMemory memory{changed(before.tokens, cast),
                             before.state_Hde.defined() ? cast(before.state_Hde) : Tensor()};
    const DeltaOutput got = delta_rule(changed(tokens, cast), segments, memory);
    const Tensor got_out = got.out_NHe.to(at::kDouble), got_state = got.state_SHde.to(at::kDouble);
    const auto is_close = [&](const Tensor& a, const Tensor& b, double tolerance) {
      return at::allclose(a, b, 0,
                          type == at::kDouble ? tolerance : 1e-5 * std::max(1.0, b.abs().max().item<double>()));
    };
    CAPTURE(type, tokens.k_NKd.sizes(), (got_out - out).abs().max().item<double>());
    CHECK(is_close(got_out, out, 1e-12));
    CHECK(is_close(got_state, state, 1e-12));
    const auto grads = gradients(got_out, got_state);
    for (std::size_t i = 0; i < grads.size(); ++i) {
      CAPTURE(i, (grads[i] - expected[i]).abs().max().item<double>(), expected[i].abs().max().item<double>());
      CHECK(is_close(grads[i], expected[i], 1e-10));
    }
  }
}

TEST_CASE("the delta rule in chunks is the one token by token, from zero and from the states of prompts") {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(1);
  const auto trained = [](const Tensor& x) { return x.detach().clone().requires_grad_(true); };
  const auto widths = GENERATE(DeltaWidths{}, DeltaWidths{48, 32});
  const DeltaTokens tokens = changed(random_tokens(407, generator, widths), trained);
  check_delta_rule({{0, 407}}, tokens, {}, tokens);
  check_delta_rule({{0, 5}, {5, 131}, {136, 64}, {200, 1}, {201, 206}}, tokens, {}, tokens);
  // Prompts of the row itself: a segment, and the first tokens of one.
  check_delta_rule({{0, 70}, {70, 30, 0, 70}, {100, 130, 0, 70}, {230, 77}, {307, 100, 0, 9}}, tokens, {}, tokens);
  // Prompts of a row before, of two sequences and of one.
  const DeltaTokens prompts = random_tokens(150, generator, widths);
  const DeltaTokens kept{Tensor(), prompts.k_NKd, prompts.v_NHe, prompts.decay_NH, prompts.beta_NH};
  check_delta_rule({{0, 7, 0, 90}, {7, 100, 90, 3}, {107, 300, 0, 90}}, tokens, {kept, Tensor()}, prompts);
  const Tensor state = by_token(prompts, {0, 150}, prompts).state_SHde[0];
  check_delta_rule({{0, 407, 0, 150}}, tokens, {kept, state}, prompts);
  check_delta_rule({{0, 407, 0, 150}}, tokens, {{}, state}, prompts);
  check_delta_rule({{0, 407, 0, 80}}, tokens, {kept, state}, prompts);
}

TEST_CASE("a causal convolution's kernel is its composition, which is that of each sequence by itself") {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(2);
  const std::vector<Segment> segments{{0, 6}, {6, 1}, {7, 4, 0, 6}, {11, 2, 0, 1}, {13, 3, 6, 1}};
  const ConvMemory before{random({9, 70}, generator), 20};
  const std::vector<Segment> after{{0, 7, 0, 29}, {7, 9, 20, 2}};
  for (const auto& [parts, memory] : {std::pair{segments, ConvMemory{}}, std::pair{after, before}}) {
    const CausalConv exact{random({70, 1, 4}, generator).requires_grad_(true), random({70}, generator)};
    const Tensor x = random({16, 70}, generator).requires_grad_(true), probe = random({16, 70}, generator);
    const Tensor out = causal_conv(exact, x, parts, memory);
    for (const Segment& segment : parts) {
      const Tensor source =
          memory.x_NC.defined() ? at::cat({at::zeros({memory.first, 70}, at::kDouble), memory.x_NC}) : x;
      const Tensor whole =
          at::cat({at::zeros({3, 70}, at::kDouble), source.narrow(0, segment.prefix_begin, segment.prefix_length),
                   x.narrow(0, segment.begin, segment.length)});
      for (std::int64_t t = 0; t < segment.length; ++t) {
        const Tensor seen = whole.narrow(0, segment.prefix_length + t, 4);
        const Tensor expected = (seen * exact.weight_C1K.squeeze(1).t()).sum(0) + exact.bias_C;
        CHECK(at::allclose(out[segment.begin + t], expected, 0, 1e-12));
      }
    }
    const auto expected = torch::autograd::grad({(out * probe).sum()}, {x, exact.weight_C1K});
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      const Tensor x_narrow = x.detach().to(type).requires_grad_(true),
                   weight = exact.weight_C1K.detach().to(at::kFloat).requires_grad_(true);
      const ConvMemory narrow{memory.x_NC.defined() ? memory.x_NC.to(type) : Tensor(), memory.first};
      const Tensor got = causal_conv({weight, exact.bias_C}, x_narrow, parts, narrow);
      CHECK(got.scalar_type() == type);
      const double tolerance = type == at::kFloat ? 1e-5 : 6e-2;
      CHECK(at::allclose(got.to(at::kDouble), out, tolerance, tolerance));
      const auto grads = torch::autograd::grad({(got * probe.to(type)).sum()}, {x_narrow, weight});
      for (std::size_t i = 0; i < grads.size(); ++i)
        CHECK(at::allclose(grads[i].to(at::kDouble), expected[i], tolerance, tolerance * 4));
    }
  }
}

}  // namespace
}  // namespace kto::test::test_mixers
