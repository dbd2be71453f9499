// SPDX-License-Identifier: Apache-2.0
// The products of both back ends against at::linear, values and gradients.

#include <ATen/ops/allclose.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>

#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "catch.hpp"
#include "kto/nn/affine.hpp"

namespace kto::test::test_matmul {
namespace {

struct BackendGuard {
  MatmulBackend before = matmul_backend();
  ~BackendGuard() { set_matmul_backend(before); }
};

TEST_CASE("products and their gradients agree with at::linear on every back end") {
  const BackendGuard guard;
  const auto generator = at::detail::createCPUGenerator(3);
  for (const auto backend : {MatmulBackend::aten, MatmulBackend::onednn}) {
    if (backend == MatmulBackend::onednn && !detail::onednn_linear()) {
      WARN("skipped: this LibTorch has no oneDNN");
      continue;
    }
    set_matmul_backend(backend);
    for (const auto dtype : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf})
      for (const bool with_bias : {false, true})
        for (const std::int64_t rows : {0, 1, 5, 70}) {
          INFO("backend " << static_cast<int>(backend) << ", " << dtype << ", bias " << with_bias << ", rows " << rows);
          const auto leaf = [&](at::IntArrayRef shape) {
            return at::randn(shape, generator, at::kFloat).requires_grad_(true);
          };
          const Tensor x = leaf({rows, 33}).detach().to(dtype).requires_grad_(true), w = leaf({20, 33}), b = leaf({20});
          const std::vector<Tensor> inputs = with_bias ? std::vector{x, w, b} : std::vector{x, w};
          const auto bias = with_bias ? std::optional(b) : std::nullopt;
          const Tensor got = affine(x, w, bias);
          const Tensor want = at::linear(x, w.to(dtype), with_bias ? std::optional(b.to(dtype)) : std::nullopt);
          const double tolerance = dtype == at::kBFloat16 ? 0.1 : dtype == at::kHalf ? 0.02 : 1e-4;
          CHECK(got.scalar_type() == dtype);
          CHECK(at::allclose(got, want, tolerance, tolerance));
          const Tensor probe = at::randn(want.sizes(), generator, at::kFloat).to(dtype);
          const auto grads = torch::autograd::grad({got}, inputs, {probe});
          const auto wanted = torch::autograd::grad({want}, inputs, {probe});
          for (std::size_t i = 0; i < inputs.size(); ++i) {
            CHECK(grads[i].scalar_type() == inputs[i].scalar_type());
            CHECK(at::allclose(grads[i], wanted[i], tolerance, tolerance));
          }
        }
  }
}

TEST_CASE("a product of numbers that the processor has none of is their float32 product, rounded once") {
  const auto generator = at::detail::createCPUGenerator(4);
  Tensor x, w;
  const BackendGuard guard;
  set_matmul_backend(MatmulBackend::aten);
  for (const auto type : {at::kBFloat16, at::kHalf}) {
    const auto half = [&](at::IntArrayRef shape) { return at::randn(shape, generator, at::kFloat).to(type); };
    x = half({5, 300}), w = half({7, 300});
    const Tensor b = half({7});
    const Tensor wide = at::linear(x.to(at::kFloat), w.to(at::kFloat), b.to(at::kFloat));
    if (!detail::has_products_of(type)) CHECK(at::equal(matmul_transposed(x, w, b), wide.to(type)));
  }
  CHECK_FALSE(detail::has_products_of(at::kHalf));
  CHECK(detail::has_products_of(at::kFloat));
  if (const char* most = std::getenv("ONEDNN_MAX_CPU_ISA"); most != nullptr && std::string_view(most) == "AVX2")
    CHECK_FALSE(detail::has_products_of(at::kBFloat16));
  CHECK(at::isfinite(matmul_transposed(x * 100, w * 100)).logical_not().any().item<bool>());  // 65504 is the largest
}

TEST_CASE("narrow products in tiles are those of float64, rounded once, whatever is left of tiles and of vectors") {
  const auto generator = at::detail::createCPUGenerator(5);
  const BackendGuard guard;
  for (const auto backend : {MatmulBackend::aten, MatmulBackend::onednn}) {
    if (backend == MatmulBackend::onednn && !detail::onednn_linear()) continue;
    set_matmul_backend(backend);
    for (const auto type : {at::kBFloat16, at::kHalf})
      for (const auto& [rows, columns, depth] : std::vector<std::array<std::int64_t, 3>>{{0, 3, 5},
                                                                                         {3, 0, 5},
                                                                                         {3, 5, 0},
                                                                                         {1, 1, 1},
                                                                                         {1, 17, 33},
                                                                                         {4, 9, 64},
                                                                                         {5, 7, 3},
                                                                                         {70, 33, 129},
                                                                                         {300, 270, 5001},
                                                                                         {2100, 1, 560}}) {
        CAPTURE(static_cast<int>(backend), type, rows, columns, depth);
        const auto narrow = [&](at::IntArrayRef shape) { return at::randn(shape, generator, at::kFloat).to(type); };
        const auto wide = [](const Tensor& x) { return x.to(at::kDouble); };
        const Tensor x = narrow({rows, depth}), w = narrow({columns, depth}), b = narrow({columns});
        const Tensor want = at::linear(wide(x), wide(w), wide(b));
        // Half a unit in the last place, and what float32 sums of that depth may be off.
        const double unit = type == at::kHalf ? 0x1p-11 : 0x1p-8,
                     sums = 1e-6 * std::sqrt(1.0 + static_cast<double>(depth));
        const auto product = [&](const Tensor& left, const Tensor& right, at::ScalarType out_type) {
          return detail::widened_product(left, right, b, out_type, detail::float_product);
        };
        for (const bool views : {false, true}) {
          const auto given = [&](const Tensor& matrix) { return views ? matrix.t().contiguous().t() : matrix; };
          const Tensor got = product(given(x), given(w), type),
                       sum = product(given(x), given(w).to(at::kFloat), at::kFloat);
          REQUIRE(got.sizes() == want.sizes());
          CHECK((got.scalar_type() == type && sum.scalar_type() == at::kFloat));
          CHECK(at::allclose(wide(got), want, unit * 1.01, 4 * sums));
          CHECK(at::allclose(wide(sum), want, 1e-5, 4 * sums));
          for (const auto grad_type : {at::kFloat, type}) {
            const Tensor grad = at::ones({rows, columns}, grad_type);
            detail::add_widened_product(grad, given(x), given(w.t()), detail::float_product);
            CHECK(at::allclose(wide(grad), want - wide(b) + 1, unit * 2.02, 4 * sums + 2 * unit));
          }
        }
      }
  }
}

TEST_CASE("a matrix that lies column by column is laid out by rows, whatever is left of blocks") {
  for (const std::int64_t rows : {2, 16, 17, 50})
    for (const std::int64_t columns : {2, 15, 32, 33}) {
      CAPTURE(rows, columns);
      const Tensor by_columns = at::randn({columns, rows + 3}).narrow(1, 1, rows).t();
      REQUIRE(detail::is_transposed(by_columns));
      const Tensor by_rows = detail::by_rows(by_columns);
      CHECK(by_rows.is_contiguous());
      CHECK(at::equal(by_rows, by_columns));
      CHECK_FALSE(detail::is_transposed(by_rows));
    }
}

TEST_CASE("kernels read and round float16 as LibTorch does, every number of it and those between") {
  const Tensor bits = at::arange(0, 1 << 16, at::kInt).to(at::kShort), halves = bits.view(at::kHalf);
  const auto* half = halves.const_data_ptr<at::Half>();
  for (std::int64_t i = 0; i < halves.numel(); ++i) {
    const float number = static_cast<float>(half[i]), next = static_cast<float>(half[(i + 1) % halves.numel()]);
    const auto same = [](float a, float b) {
      return std::isnan(a) ? std::isnan(b) : std::bit_cast<std::int32_t>(a) == std::bit_cast<std::int32_t>(b);
    };
    if (!same(number, detail::load(half[i]))) FAIL("reads " << bits[i].item<int>() << " as " << detail::load(half[i]));
    const float middle = number + (next - number) / 2;
    for (const float x : {number, middle, std::nextafter(middle, 1e9F), std::nextafter(middle, -1e9F)})
      if (!same(static_cast<float>(at::Half(x)), detail::rounded_to<at::Half>(x)))
        FAIL("rounds " << x << " to " << detail::rounded_to<at::Half>(x));
  }
}

TEST_CASE("only gradients that are asked for are computed") {
  const Tensor x = at::ones({2, 3}), w = at::ones({4, 3}).requires_grad_(true), b = at::ones({4}).requires_grad_(true);
  affine(x, w, b).sum().backward();
  CHECK(at::equal(w.grad(), at::full({4, 3}, 2.0)));
  CHECK(at::equal(b.grad(), at::full({4}, 2.0)));
  CHECK_FALSE(affine(x, w.detach(), b.detach()).requires_grad());
}

TEST_CASE("products have second derivatives") {
  const Tensor x = at::rand({3, 4}, at::kDouble).requires_grad_(true),
               w = at::rand({2, 4}, at::kDouble).requires_grad_(true);
  const auto second = [&](const Tensor& y) {
    const auto first = torch::autograd::grad({y.pow(3).sum()}, {x, w}, {}, std::nullopt, /*create_graph=*/true);
    return torch::autograd::grad({first[0].square().sum() + first[1].square().sum()}, {x, w});
  };
  const auto got = second(affine(x, w)), want = second(at::linear(x, w));
  for (std::size_t i = 0; i < 2; ++i) CHECK(at::allclose(got[i], want[i]));
}

}  // namespace
}  // namespace kto::test::test_matmul
