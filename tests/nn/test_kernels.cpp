// SPDX-License-Identifier: Apache-2.0
// The kernels of a decoder's layers against the composition of LibTorch's operators that each says it is, computed in
// float64: values and gradients, in float32, bfloat16 and float16, of sizes that fill vectors and threads and that do not. And
// what the scopes around a step do with weights.
#include <ATen/ops/allclose.h>
#include <ATen/ops/full.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>

#include <functional>
#include <thread>

#include "catch.hpp"
#include "kto/core/bf16_product.hpp"
#include "kto/logprob/chunked.hpp"
#include "kto/nn/blocks.hpp"
#include "kto/nn/embedding.hpp"
#include "kto/nn/recompute.hpp"
#include "kto/nn/rotate.hpp"

namespace kto::test::test_kernels {
namespace {

using Tensors = std::vector<Tensor>;
using Function = std::function<Tensors(const Tensors&, at::ScalarType)>;

/// Numbers that every type holds exactly, so that types differ by what is computed alone.
Tensor exact(at::IntArrayRef shape) { return at::randn(shape).to(at::kBFloat16).to(at::kDouble); }

Tensors as(const Tensors& inputs, at::ScalarType type) {
  Tensors out;
  for (const Tensor& input : inputs) out.push_back(input.to(type).requires_grad_(true));
  return out;
}

/// Outputs, then the gradients of their sum weighted by `weights`.
Tensors values_and_gradients(const Function& function, const Tensors& inputs, const Tensors& weights,
                             at::ScalarType type) {
  Tensors out = function(inputs, type);
  Tensor total = at::zeros({}, at::kDouble);
  for (std::size_t i = 0; i < out.size(); ++i) total = total + (out[i].to(at::kDouble) * weights[i]).sum();
  const Tensors grads = torch::autograd::grad({total}, inputs);
  out.insert(out.end(), grads.begin(), grads.end());
  return out;
}

void check_close(const Tensors& got, const Tensors& expected, at::ScalarType type) {
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double scale = std::max(1.0, expected[i].abs().max().item<double>());
    CAPTURE(type, i, scale);
    REQUIRE(got[i].sizes() == expected[i].sizes());
    CHECK((got[i].to(at::kDouble) - expected[i]).abs().max().item<double>() <= scale * (type == at::kFloat  ? 3e-6
                                                                                        : type == at::kHalf ? 2e-3
                                                                                                            : 1.6e-2));
  }
}

/// `kernel` on inputs of a type that computes in that type, against `oracle` in float64. The inputs [0, narrow) are of
/// the type, the others of float32, as parameters are.
void check_kernel(const Function& kernel, const Function& oracle, const Tensors& inputs, std::size_t narrow) {
  const Tensors wide = as(inputs, at::kDouble);
  Tensors weights;
  for (const Tensor& out : oracle(wide, at::kDouble)) weights.push_back(exact(out.sizes()));
  const Tensors expected = values_and_gradients(oracle, wide, weights, at::kDouble);
  for (const auto type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    Tensors held = as(inputs, at::kFloat);
    for (std::size_t i = 0; i < narrow; ++i) held[i] = inputs[i].to(type).requires_grad_(true);
    check_close(values_and_gradients(kernel, held, weights, type), expected, type);
  }
}

struct Size {
  std::int64_t tokens, width;
};
const std::vector<Size> sizes{{1, 1}, {3, 17}, {7, 64}, {300, 48}, {70, 576}};

const NormSpec rms{.eps = 1e-5}, rms_of_one{.eps = 1e-5, .offset = 1}, bare_rms{.eps = 1e-5, .has_weight = false},
    layer_norm{.is_layer_norm = true, .eps = 1e-5, .has_bias = true}, unbiased{.is_layer_norm = true, .eps = 1e-5},
    bare{.is_layer_norm = true, .eps = 1e-5, .has_weight = false},
    layer_norm_of_one{.is_layer_norm = true, .eps = 1e-5, .offset = 1, .has_bias = true};

/// The parameters that a norm has, of those.
Norm parameters_of(const NormSpec& spec, const Tensor& weight, const Tensor& bias) {
  return {spec.has_weight ? weight : Tensor(), spec.has_bias ? bias : Tensor()};
}

TEST_CASE("a norm is its composition", "[kernels]") {
  at::manual_seed(1);
  for (const NormSpec& spec : {rms, rms_of_one, bare_rms, layer_norm, unbiased, bare, layer_norm_of_one}) {
    const auto check_norm = [&](const Tensor& x, at::IntArrayRef weight) {
      const auto norm = [&](const auto& function) {
        return [&spec, function](const Tensors& in, at::ScalarType type) {
          const Norm parameters{spec.has_weight ? in[1] : Tensor(), spec.has_bias ? in.back() : Tensor()};
          return Tensors{function(spec, parameters, in[0], type == at::kDouble ? at::kDouble : at::kFloat)};
        };
      };
      Tensors inputs{x};
      if (spec.has_weight) inputs.push_back(exact(weight));
      if (spec.has_bias) inputs.push_back(exact({x.size(-1)}));
      CAPTURE(spec.is_layer_norm, spec.offset, spec.has_weight, spec.has_bias, x.sizes());
      check_kernel(norm(normalized), norm(normalized_composed), inputs, 1);
      const auto fused = [](const NormSpec& of, const Norm& from, const Tensor& rows, at::ScalarType type) {
        return rms_norm_fused(rows, from.weight_D + of.offset, of.eps, type);
      };
      if (!spec.is_layer_norm && spec.has_weight && !spec.has_bias && weight.size() == 1)
        check_kernel(norm(fused), norm(normalized_composed), inputs, 1);
    };
    for (const auto& [tokens, width] : sizes) {
      if (width == 1 && spec.is_layer_norm) continue;  // always 0
      check_norm(exact({tokens, width}) + 2, {width});
      check_norm(exact({tokens, 3, width}), {width});
      check_norm(exact({tokens, 3, width}), {3, width});
    }
  }
}

TEST_CASE("apply_rope is its composition", "[kernels]") {
  at::manual_seed(2);
  for (const std::int64_t rotated : {2, 34, 64})
    for (const std::int64_t others : {0, 6})
      for (const bool interleaved : {false, true})
        for (const std::int64_t tokens : {1, 5, 130}) {
          CAPTURE(tokens, rotated, others, interleaved);
          const Tensor angle_Nh = at::rand({tokens, rotated / 2}, at::kDouble) * 6;
          const auto tables = [&](at::ScalarType type) {
            const Tensor angle_Nd = at::cat({angle_Nh, angle_Nh}, -1);
            return RopeTables{angle_Nd.cos().to(type), angle_Nd.sin().to(type), interleaved};
          };
          // Of heads that lie apart, as in the output of one projection for all.
          const auto rope = [&](const auto& function) {
            return [=](const Tensors& in, at::ScalarType type) {
              return Tensors{function(in[0].narrow(1, 1, 2), tables(wide_type(type)), type)};
            };
          };
          check_kernel(rope(apply_rope), rope(apply_rope_composed), {exact({tokens, 4, rotated + others})}, 1);
          for (const bool inverse : {false, true}) {
            const Tensor x = exact({tokens, 3, rotated + others}).to(at::kFloat);
            CHECK(at::allclose(detail::rotate_by_halves(x, tables(at::kFloat), inverse, at::kFloat),
                               detail::rotate(x, tables(at::kFloat), inverse, at::kFloat), 1e-5, 1e-6));
          }
        }
}

const auto activations = {Activation::silu, Activation::gelu,  Activation::gelu_tanh, Activation::quick_gelu,
                          Activation::relu, Activation::relu2, Activation::bloom_gelu};

TEST_CASE("the activation of an MLP, gated or not, is its composition", "[kernels]") {
  at::manual_seed(3);
  const auto check_gates = [](Activation activation, const Tensors& inputs, bool side_by_side) {
    CAPTURE(activation, inputs.size(), side_by_side);
    const auto gate = [&](const auto& function) {
      return [=](const Tensors& in, at::ScalarType) {
        return Tensors{function(activation, {in[0], in.size() > 1 ? in[1] : Tensor(), side_by_side})};
      };
    };
    check_kernel(gate(gated), gate(gated_composed), inputs, inputs.size());
  };
  for (const Activation activation : activations)
    for (const auto& [tokens, width] : sizes) {
      check_gates(activation, {exact({tokens, width}) * 4, exact({tokens, width})}, false);
      check_gates(activation, {exact({tokens, width}) * 4}, false);
      check_gates(activation, {exact({tokens, 2 * width}) * 4}, true);
    }
  const Tensor great = at::tensor({-1e4F, -90.0F, 0.0F, 90.0F, 1e4F});
  for (const Activation activation : activations) {
    CAPTURE(activation);
    CHECK(at::allclose(gated(activation, {great}), activate(activation, great)));
    CHECK(gated(activation, {at::full({1}, NAN)}).isnan().all().item<bool>());
  }
}

/// What the blocks of a layer are made of.
struct BlockForm {
  NormSpec norm = rms;
  Activation activation = Activation::silu;
  bool is_gated = true;
  bool is_transposed = false;
};

/// The two blocks of a layer: norm and three products, of which one has a bias, and the activated product.
Tensors blocks(const BlockForm& form, const Tensors& in, at::ScalarType type) {
  const bool t = form.is_transposed;
  const auto linear = [&](const Tensor& weight_OI, const Tensor& bias) {
    return Linear{.weight_OI = t ? weight_OI.t() : weight_OI, .bias_O = bias, .is_transposed = t};
  };
  const Linear q = linear(in[2], in[3]), k = linear(in[4], {}), v = linear(in[5], {}), down = linear(in[6], in[7]);
  const Norm norm = parameters_of(form.norm, in[1], in[8]);
  auto out = normed_linears(in[0], form.norm, norm, type, {&q, &k, &v});
  out.push_back(gated_down(form.activation, {out[1], form.is_gated ? out[2] : Tensor()}, down));
  for (Tensor& more : add_normed_linears(in[0], out.back(), form.norm, norm, type, {&q, &k}))
    out.push_back(std::move(more));
  return out;
}
Tensors blocks_composed(const BlockForm& form, const Tensors& in, at::ScalarType type) {
  const Norm norm = parameters_of(form.norm, in[1], in[8]);
  const Tensor x = normalized_composed(form.norm, norm, in[0], type);
  const Tensor gate = at::linear(x, in[4]), up = at::linear(x, in[5]);
  const Tensor down = at::linear(gated_composed(form.activation, {gate, form.is_gated ? up : Tensor()}), in[6], in[7]);
  const Tensor sum = in[0] + down, y = normalized_composed(form.norm, norm, sum, type);
  return {at::linear(x, in[2], in[3]), gate, up, down, sum, at::linear(y, in[2], in[3]), at::linear(y, in[4])};
}
Tensors block_inputs(std::int64_t tokens) {
  return {exact({tokens, 24}),
          exact({24}),
          exact({10, 24}) * 0.25,
          exact({10}),
          exact({40, 24}) * 0.25,
          exact({40, 24}) * 0.25,
          exact({24, 40}) * 0.25,
          exact({24}),
          exact({24})};
}

TEST_CASE("the blocks of a layer are their composition", "[kernels]") {
  at::manual_seed(4);
  for (const std::int64_t tokens : {1, 19, 200}) {
    CAPTURE(tokens);
    for (const BlockForm& form :
         {BlockForm{}, BlockForm{.norm = rms_of_one, .activation = Activation::gelu_tanh},
          BlockForm{.norm = layer_norm, .activation = Activation::gelu, .is_gated = false, .is_transposed = true},
          BlockForm{.norm = layer_norm_of_one, .activation = Activation::relu2, .is_gated = false},
          BlockForm{.norm = bare}}) {
      CAPTURE(form.norm.is_layer_norm, form.norm.offset, form.activation);
      Tensors inputs = block_inputs(tokens);
      // What a form does not use has a gradient nevertheless.
      const auto with_all = [&](const auto& function) {
        return [&form, function](const Tensors& in, at::ScalarType type) {
          Tensors out = function(form, in, type);
          out.push_back(in[1].to(at::kFloat) + in[8].to(at::kFloat));
          return out;
        };
      };
      check_kernel(with_all(blocks), with_all(blocks_composed), inputs, 0);
    }
  }
}

TEST_CASE("gradients that are added in place, and weights that are cast once, are the same", "[kernels]") {
  at::manual_seed(5);
  const Tensors inputs = block_inputs(33);
  const Tensor ids_N = at::randint(7, {33}, at::kLong);
  const BlockForm form{.norm = layer_norm, .activation = Activation::gelu, .is_transposed = true};
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const auto run = [&](Tensors leaves, bool scopes) {
      const std::optional<CastOnce> casts = scopes ? std::optional<CastOnce>(std::in_place) : std::nullopt;
      const std::optional<InPlaceGradients> in_place =
          scopes ? std::optional<InPlaceGradients>(std::in_place) : std::nullopt;
      for (int twice = 0; twice < 2; ++twice) {
        Tensors layer(leaves.begin(), leaves.end() - 1);
        layer[0] = layer[0] + embed(leaves.back(), ids_N, /*pad_id=*/2);
        Tensor total = at::zeros({});
        for (const Tensor& out : blocks(form, layer, type)) total = total + out.to(at::kFloat).square().sum();
        total.backward();
      }
      Tensors grads;
      for (const Tensor& leaf : leaves) grads.push_back(leaf.grad().to(at::kDouble));
      return grads;
    };
    const auto leaves = [&] {
      Tensors out = as(inputs, at::kFloat);
      at::manual_seed(6);
      out.push_back(exact({7, 24}).to(at::kFloat).requires_grad_(true));
      return out;
    };
    const auto in_place = run(leaves(), true);
    check_close(in_place, run(leaves(), false), type);
    CHECK(in_place.back()[2].abs().max().item<double>() == 0);
    CHECK(in_place.back()[3].abs().max().item<double>() > 0);
  }
}

TEST_CASE("the scopes around a forward pass hold in its backward pass, on whatever thread that runs", "[kernels]") {
  const auto backward = [](bool recompute, bool elsewhere) {
    at::manual_seed(7);
    Tensors leaves = as(block_inputs(33), at::kFloat);
    const Tensor ids_N = at::randint(7, {33}, at::kLong), targets_N = at::randint(50, {33}, at::kLong);
    const Tensor table = leaves.emplace_back(exact({7, 24}).to(at::kFloat).requires_grad_(true)),
                 head = leaves.emplace_back(exact({50, 24}).to(at::kFloat).requires_grad_(true));
    const Tensors weights(leaves.begin() + 1, leaves.end());
    const auto layer = [=](const Tensor& hidden_ND) {
      Tensors in = leaves;
      in[0] = hidden_ND;
      Tensor total = at::zeros({});
      for (const Tensor& out : blocks({.norm = layer_norm}, in, at::kBFloat16))
        total = total + out.to(at::kFloat).square().sum();
      return Tensors{total};
    };
    int num_gathered = 0;  // gradients that autograd gathers
    for (const Tensor& weight : weights)
      weight.register_hook([&](const Tensor& grad) { num_gathered += grad.defined() ? 1 : 0; });
    const InPlaceGradients in_place;
    const CastOnce casts;
    const Tensor hidden_ND = leaves[0] + embed(table, ids_N);
    const Tensor logp_C =
        chunked_token_scores(hidden_ND.to(at::kBFloat16), {.weight_VD = head}, targets_N, false).logp_C;
    const Tensor total = (recompute ? recomputed(layer, hidden_ND, weights) : layer(hidden_ND))[0] + logp_C.sum();
    // What is cast once does not see that weights of another type change; they must not, outside of this test.
    for (const std::size_t i : {2U, 4U, 5U, 6U, 10U})
      if (elsewhere) leaves[i].variable_data().zero_();
    if (elsewhere)
      std::thread([&] { total.backward(); }).join();
    else
      total.backward();
    CHECK(num_gathered == 0);
    Tensors grads;
    for (const Tensor& leaf : leaves) grads.push_back(leaf.grad());
    return grads;
  };
  for (const bool recompute : {false, true}) {
    const Tensors want = backward(recompute, false), got = backward(recompute, true);
    for (std::size_t i = 0; i < want.size(); ++i) {
      CAPTURE(recompute, i);
      REQUIRE(got[i].defined());
      CHECK(at::equal(got[i], want[i]));
    }
  }
}

TEST_CASE("backward passes in place may run side by side and share weights", "[kernels]") {
  constexpr int num_threads = 8;
  const auto small = [](at::IntArrayRef shape) { return at::randint(-2, 3, shape).to(at::kFloat); };  // sums are exact
  at::manual_seed(11);
  const Tensors weights{small({30, 40}).requires_grad_(true), small({30}).requires_grad_(true),
                        small({9, 40}).requires_grad_(true)};
  Tensors want, losses;
  const InPlaceGradients in_place;
  for (int i = 0; i < num_threads; ++i) {
    const Tensor x_NI = embed(weights[2], at::randint(9, {50}, at::kLong)) + small({50, 40});
    losses.push_back((affine(x_NI, weights[0], weights[1]) * small({50, 30})).sum());
    losses.back().backward({}, /*retain_graph=*/true);
  }
  for (const Tensor& weight : weights) {
    want.push_back(weight.grad());
    weight.mutable_grad() = Tensor();
  }
  std::vector<std::thread> threads;
  for (const Tensor& loss : losses) threads.emplace_back([&loss] { loss.backward(); });
  for (std::thread& thread : threads) thread.join();
  for (std::size_t i = 0; i < weights.size(); ++i) CHECK(at::equal(weights[i].grad(), want[i]));
}

TEST_CASE("a scope that is gone holds no longer, also in a backward pass of what was recorded in it", "[kernels]") {
  const Tensor x_NI = at::ones({2, 3}).to(at::kBFloat16).requires_grad_(true), w_OI = at::ones({4, 3}).requires_grad_();
  const auto record = [&] {
    const InPlaceGradients in_place;
    const CastOnce casts;
    return affine(x_NI, w_OI).sum();
  };
  const Tensor total = record();
  w_OI.variable_data().fill_(2);
  const auto grads = torch::autograd::grad({total}, {x_NI, w_OI});
  CHECK(at::equal(grads[0], at::full({2, 3}, 8).to(at::kBFloat16)));
  CHECK(at::equal(grads[1], at::full({4, 3}, 2.0F)));
  CHECK_FALSE(w_OI.grad().defined());
}

#if defined(__x86_64__) && defined(__linux__)
TEST_CASE("products of bfloat16 with float32 sums, in tiles and in dot products", "[kernels]") {
  if (!detail::has_bf16_product()) WARN("skipped: this processor has neither");
  at::manual_seed(8);
  for (const auto& [rows, columns, depth] :
       std::vector<std::array<std::int64_t, 3>>{{64, 64, 64}, {32, 96, 32}, {96, 32, 128}})
    for (const bool add : {false, true}) {
      CAPTURE(rows, columns, depth, add);
      const Tensor a = exact({rows, depth}).to(at::kBFloat16), b = exact({depth, columns}).to(at::kBFloat16),
                   c = exact({rows, columns}).to(at::kFloat);
      const Tensor pairs = b.view({depth / 2, 2, columns}).transpose(1, 2).contiguous();
      const Tensor want =
          at::matmul(a.to(at::kDouble), b.to(at::kDouble)) + (add ? c : at::zeros_like(c)).to(at::kDouble);
      const auto check_product = [&](const auto& product) {
        const Tensor got = c.clone();
        product(rows, columns, depth, a.const_data_ptr<at::BFloat16>(), depth,
                reinterpret_cast<const std::uint32_t*>(pairs.const_data_ptr<at::BFloat16>()), columns,
                got.mutable_data_ptr<float>(), columns, add);
        CHECK(at::allclose(got.to(at::kDouble), want, 1e-5, 1e-4));
      };
      if (detail::has_avx512_bf16()) check_product(detail::dot_product);
      if (detail::has_amx()) {
        const detail::AmxTiles tiles;
        check_product(detail::amx_product);
      }
    }
}
#endif

TEST_CASE("logits of bfloat16 are the product in double, whatever is left of blocks", "[kernels]") {
  if (!detail::has_bf16_product()) {
    WARN("skipped: this processor has no products of bfloat16");
    return;
  }
  at::manual_seed(9);
  for (const auto type : {at::kFloat, at::kBFloat16})
    for (const std::int64_t tokens : {1, 32, 77})
      for (const std::int64_t columns : {1, 64, 150})
        for (const std::int64_t width : {32, 160}) {
          CAPTURE(type, tokens, columns, width);
          const Tensor hidden_cD = at::randn({tokens, width}).to(at::kBFloat16),
                       weight_vD = at::randn({columns, width}).to(type);
          const Tensor want_cv = at::matmul(hidden_cD.to(at::kDouble), weight_vD.to(at::kBFloat16).to(at::kDouble).t());
          REQUIRE(detail::takes_bf16_logits(hidden_cD, weight_vD));
          const Tensor got_cv = detail::bf16_logits(hidden_cD, weight_vD);
          CHECK(got_cv.scalar_type() == at::kFloat);
          CHECK(at::allclose(got_cv.to(at::kDouble), want_cv, 1e-5, 1e-4));
        }
}

TEST_CASE("a tile of logits gives the scores and the gradient of its composition", "[kernels]") {
  at::manual_seed(7);
  for (const bool statistics : {false, true})
    for (const std::int64_t width : {1, 40, 1000}) {
      CAPTURE(statistics, width);
      const Tensor logits_cv = at::randn({37, 3 * width}) * 8, target_c = at::randint(3 * width, {37}, at::kLong),
                   grad_c = at::randn({37});
      const auto options = logits_cv.options();
      detail::RunningScores got(37, statistics, options), expected(37, statistics, options.dtype(at::kDouble));
      for (std::int64_t first = 0; first < 3 * width; first += width) {
        const Tensor tile_cv = logits_cv.narrow(1, first, width);
        detail::add_tile(got, tile_cv, target_c, first);
        detail::add_tile_composed(expected, tile_cv.to(at::kDouble), target_c, first);
      }
      const auto parts = [&](const detail::RunningScores& scores) {
        Tensors out{scores.target_logit_c, scores.exp_sum_c.log() + scores.max_c};
        if (statistics) out.insert(out.end(), {scores.exp_logit_sum_c / scores.exp_sum_c, scores.logit_sum_c});
        return out;
      };
      check_close(parts(got), parts(expected), at::kFloat);

      const Tensor log_sum_c = at::logsumexp(logits_cv, {1});
      Tensor grad_cv = logits_cv.narrow(1, width, width).contiguous(), expected_cv = grad_cv.to(at::kDouble);
      detail::tile_gradient(grad_cv, log_sum_c, target_c, grad_c, width);
      detail::tile_gradient_composed(expected_cv, log_sum_c.to(at::kDouble), target_c, grad_c.to(at::kDouble), width);
      check_close({grad_cv}, {expected_cv}, at::kFloat);
    }
}

}  // namespace
}  // namespace kto::test::test_kernels
