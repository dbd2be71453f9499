// SPDX-License-Identifier: Apache-2.0
// AdamW with moments in bfloat16 and in 8 bits: the codes against the definition of dynamic quantization, single steps
// and many steps (with rounded moments) against full AdamW, and runs that repeat to the last bit.
#include <ATen/ops/allclose.h>
#include <ATen/ops/randn.h>

#include <cmath>

#include "catch.hpp"
#include "kto/optim/adamw.hpp"
#include "kto/optim/adamw_8bit.hpp"
#include "kto/optim/adamw_bf16.hpp"

namespace test_compact_adamw {

using namespace kto;

namespace {

/// The numbers of dynamic quantization from section 1.3 of arXiv:2110.02861: with a sign's bit, seven bits of which e
/// leading zeros are the exponent, one is the indicator and the rest cut [0.1, 1] into equal bins; without one, the
/// sign's bit joins the bins.
std::vector<double> dynamic_values(bool is_signed) {
  std::vector<double> out{0, 1};
  for (int zeros = 0; zeros < 7; ++zeros) {
    const int bins = 1 << (6 - zeros + (is_signed ? 0 : 1));
    for (int bin = 0; bin < bins; ++bin) {
      const double value = std::pow(10.0, -zeros) * (0.1 + 0.9 * (bin + 0.5) / bins);
      out.push_back(value);
      if (is_signed) out.push_back(-value);
    }
  }
  std::sort(out.begin(), out.end());
  return out;
}

struct Model {
  Tensor matrix, vector;
  NamedTensors named_parameters() const { return {{"proj.weight", matrix}, {"norm.weight", vector}}; }
};

Model make_model(std::int64_t rows = 100, at::ScalarType type = at::kFloat) {
  at::manual_seed(7);
  return {at::randn({rows, 101}).to(type).requires_grad_(true), at::randn({37}).to(type).requires_grad_(true)};
}

/// `steps` steps on noisy gradients of a quadratic; the matrix after them.
template <class Optimizer>
Tensor descend(Optimizer optimizer, int steps, double rate, const Tensor& divisor = {}, int threads = 2) {
  const int before = at::get_num_threads();
  at::set_num_threads(threads);
  const Model model = make_model();
  FlatParameters flat = flatten_parameters(model);
  at::manual_seed(8);
  for (int step = 0; step < steps; ++step) {
    flat.zero_grad();
    model.matrix.mutable_grad() = model.matrix.detach() + 0.5 * at::randn({100, 101});
    model.vector.mutable_grad() = model.vector.detach().clone();
    optimizer.step(flat, {.learning_rate = rate, .grad_divisor = divisor});
  }
  at::set_num_threads(before);
  return model.matrix.detach().clone();
}

}  // namespace

TEST_CASE("the 8-bit codes are those of dynamic quantization, and numbers get the nearest") {
  const auto compare = [](const std::vector<double>& want, const auto& have) {
    REQUIRE(want.size() == 256);
    for (std::size_t i = 0; i < 256; ++i) CHECK(have[i] == Approx(want[i]).epsilon(1e-6).margin(1e-12));
  };
  compare(dynamic_values(true), detail::SignedCode::values);
  compare(dynamic_values(false), detail::UnsignedCode::values);
  const auto values = dynamic_values(true);
  for (double size = 1e-8; size <= 1; size *= 1.0007)
    for (const double x : {size, -size}) {
      const double got = values[detail::SignedCode::encode(static_cast<float>(x))];
      double nearest = 1;
      for (const double value : values) nearest = std::min(nearest, std::abs(value - x));
      REQUIRE(std::abs(got - x) <= nearest * (1 + 1e-4) + 1e-9);
    }
  CHECK(detail::SignedCode::encode(0) == detail::SignedCode::zero);
  CHECK(detail::SignedCode::encode(1) == 255);
  CHECK(detail::SignedCode::encode(-1) == 0);
}

TEST_CASE("second moments get one of the two codes around them, the right one on average, and never zero") {
  const auto values = dynamic_values(false);
  for (std::size_t i = 0; i < 256; ++i)  // a code's own number is not moved, whatever is drawn
    for (const float draw : {0.01F, 0.5F, 0.99F})
      CHECK(detail::UnsignedCode::encode(static_cast<float>(values[i]), draw) == i);
  CHECK(detail::UnsignedCode::encode(1e-12F, 0) == 1);
  for (double x = 2e-7; x < 1; x *= 1.013) {
    const auto above = std::upper_bound(values.begin(), values.end(), x) - values.begin();
    const double low = values[static_cast<std::size_t>(above - 1)], high = values[static_cast<std::size_t>(above)];
    double mean = 0;
    constexpr int draws = 1000;
    for (int draw = 0; draw < draws; ++draw) {
      const auto code = detail::UnsignedCode::encode(static_cast<float>(x), (static_cast<float>(draw) + 0.5F) / draws);
      REQUIRE((code == above || code == above - 1));
      mean += values[code] / draws;
    }
    INFO(x);
    // Bins of two widths meet where a decade begins: there the chances are those of the wider one.
    const bool decade_begins = std::abs(std::log10(x) - std::round(std::log10(x))) < 0.45 && high / low > 1.01 &&
                               std::floor(std::log10(low) + 1e-9) != std::floor(std::log10(high) + 1e-9);
    CHECK(std::abs(mean - x) < (decade_begins || x < 1e-6 ? 0.51 : 0.01) * (high - low));
  }
}

TEST_CASE("the first step is full AdamW's, with decay, clipping and in bfloat16 parameters") {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const auto step = [&](auto optimizer) {
      const Model model = make_model(100, type);
      FlatParameters flat = flatten_parameters(model);
      at::manual_seed(9);
      for (const Tensor& parameter : {model.matrix, model.vector})
        parameter.mutable_grad() = at::randn(parameter.sizes(), parameter.options().requires_grad(false));
      optimizer.step(flat, {.learning_rate = 0.01, .grad_divisor = at::full({}, 2.5, at::kFloat)});
      return std::pair{model.matrix.detach().to(at::kFloat).clone(), model.vector.detach().to(at::kFloat).clone()};
    };
    const auto full = step(AdamW{.weight_decay = 0.1});
    const double most = type == at::kFloat ? 2e-6 : 2e-2;
    for (const auto& other : {step(AdamW8Bit{.weight_decay = 0.1}), step(AdamWBf16{.weight_decay = 0.1})}) {
      CHECK(at::allclose(full.first, other.first, most, most));
      CHECK(at::allclose(full.second, other.second, most, most));
    }
  }
}

TEST_CASE("after many steps weights are where full AdamW's are") {
  const Tensor full = descend(AdamW{}, 300, 0.01);
  const double size = full.norm().item<double>();
  CHECK((descend(AdamWBf16{}, 300, 0.01) - full).norm().item<double>() < 0.02 * size);
  CHECK((descend(AdamW8Bit{}, 300, 0.01) - full).norm().item<double>() < 0.08 * size);
}

TEST_CASE("second moments follow their gradients though each step is less than the distance of two codes") {
  const auto followed = [](auto optimizer) {
    const Model model = make_model();
    FlatParameters flat = flatten_parameters(model);
    for (int step = 0; step < 2000; ++step) {
      const double grad = step < 1000 ? 1.0 : 0.1;  // of all but one, which keeps the scale of its block
      model.matrix.mutable_grad() = at::full({100, 101}, grad);
      model.vector.mutable_grad() = at::zeros_like(model.vector.detach());
      for (std::int64_t i = 0; i < 10100; i += 256) model.matrix.mutable_grad().view(-1)[i].fill_(1);
      optimizer.step(flat, {.learning_rate = 0, .grad_divisor = {}});
    }
    return optimizer;
  };
  // 1 - 0.999^1000 of 1 decays for 1000 steps, and 0.01 comes in.
  const double want = (1 - std::pow(0.999, 1000)) * std::pow(0.999, 1000) + 0.01 * (1 - std::pow(0.999, 1000));
  const auto bf16 = followed(AdamWBf16{});
  for (const auto& moments : bf16.moments)
    if (moments.first_n.numel() > 5000)
      CHECK(moments.second_n.to(at::kFloat).mean().item<double>() == Approx(want).epsilon(0.03));
  const auto bits = followed(AdamW8Bit{});
  for (const auto& moments : bits.moments) {
    if (!moments.second_scale_b.defined()) continue;
    double sum = 0;
    const auto* codes = moments.second_n.const_data_ptr<std::uint8_t>();
    for (std::int64_t i = 0; i < 10100; ++i)
      sum += detail::UnsignedCode::values[codes[i]] * moments.second_scale_b[i / 256].item<float>();
    CHECK(sum / 10100 == Approx(want).epsilon(0.04));
  }
}

TEST_CASE("moments take 2 and 4 bytes an element, those of a small parameter stay whole in the 8-bit form") {
  const Model model = make_model();
  FlatParameters flat = flatten_parameters(model);
  AdamW8Bit bits;
  AdamWBf16 bf16;
  bits.prepare(flat);
  bf16.prepare(flat);
  REQUIRE(bits.moments.size() == 2);
  for (const auto& moments : bits.moments) {
    const bool whole = moments.first_n.numel() == 37;
    CHECK((moments.first_n.scalar_type() == at::kFloat) == whole);
    CHECK(moments.first_scale_b.defined() != whole);
  }
  for (const auto& moments : bf16.moments) CHECK(moments.second_n.scalar_type() == at::kBFloat16);
}

TEST_CASE("the same bits in any number of threads, and again") {
  CHECK(at::equal(descend(AdamW8Bit{}, 20, 0.01), descend(AdamW8Bit{}, 20, 0.01, {}, 1)));
  CHECK(at::equal(descend(AdamWBf16{}, 20, 0.01), descend(AdamWBf16{}, 20, 0.01, {}, 1)));
}

TEST_CASE("a gradient of zeros leaves moments and values at rest") {
  for (int kind = 0; kind < 2; ++kind) {
    const Model model = make_model();
    const Tensor before = model.matrix.detach().clone();
    FlatParameters flat = flatten_parameters(model);
    AdamW8Bit bits;
    AdamWBf16 bf16;
    for (const Tensor& parameter : {model.matrix, model.vector})
      parameter.mutable_grad() = at::zeros_like(parameter.detach());
    for (int step = 0; step < 3; ++step) {
      const Update update{.learning_rate = 0.1, .grad_divisor = {}};
      kind == 0 ? bits.step(flat, update) : bf16.step(flat, update);
    }
    CHECK(at::equal(model.matrix, before));
  }
}

TEST_CASE("parameters that the loops do not take are refused by name") {
  const Model model = make_model(100, at::kDouble);
  FlatParameters flat = flatten_parameters(model);
  AdamW8Bit bits;
  CHECK_THROWS_WITH(bits.step(flat, {.learning_rate = 0.1, .grad_divisor = {}}),
                    KTO_CONTAINS("adamw_8bit: norm.weight is Double on cpu"));
}

TEST_CASE("vector_sqrt is the root to two units in the last place") {
  for (float x = 1e-37F; x < 1e37F; x *= 1.37F) CHECK(detail::vector_sqrt(x) == Approx(std::sqrt(x)).epsilon(3e-7));
  CHECK(detail::vector_sqrt(0) == 0);
}

}  // namespace test_compact_adamw
