// SPDX-License-Identifier: Apache-2.0
// The kernels of attention against LibTorch's operators in float64: outputs and gradients, over lengths around a block,
// grouped heads, widths, windows, prefixes in the row and kept from another one. The kernels for a GPU run on machines
// that have one.
#include <ATen/ops/allclose.h>
#include <ATen/ops/diff.h>
#include <ATen/ops/randn.h>

#include "catch.hpp"
#include "kto/nn/attention.hpp"

namespace kto::test {
namespace {

struct Problem {
  Tensor q_NHd, k_NKd, v_NKd, weight_NHd;
  std::vector<Segment> segments;
  KeysValues prefix;
  AttentionForm form{.scale = 0.2};  ///< without window
  std::vector<KeyRange> keys = {};

  Problem as(at::ScalarType type) const {
    Problem out = *this;
    for (Tensor* tensor : {&out.q_NHd, &out.k_NKd, &out.v_NKd, &out.form.sinks_H})
      if (tensor->defined()) *tensor = tensor->to(type).requires_grad_(true);
    if (form.bias_BH.defined())  // stays wide
      out.form.bias_BH = form.bias_BH.to(wide_type(type)).requires_grad_(true);
    out.weight_NHd = weight_NHd.to(type);
    if (prefix.k_NKd.defined()) out.prefix = {prefix.k_NKd.to(type), prefix.v_NKd.to(type)};
    return out;
  }
};

Problem make_problem(std::vector<Segment> segments, std::int64_t heads, std::int64_t kv_heads, std::int64_t width,
                     std::int64_t kept = 0, std::int64_t value_width = 0) {
  std::int64_t tokens = 0;
  for (const Segment& segment : segments) tokens = std::max(tokens, segment.begin + segment.length);
  if (value_width == 0) value_width = width;
  const auto random = [&](std::int64_t rows, std::int64_t of_heads, std::int64_t of_width) {
    return at::randn({rows, of_heads, of_width}).to(at::kBFloat16).to(at::kDouble);  // exact in every type
  };
  Problem out{random(tokens, heads, width),
              random(tokens, kv_heads, width),
              random(tokens, kv_heads, value_width),
              random(tokens, heads, value_width),
              segments,
              {}};
  if (kept > 0) out.prefix = {random(kept, kv_heads, width), random(kept, kv_heads, value_width)};
  return out;
}

template <class Attention>
std::vector<Tensor> run(const Attention& attention, const Problem& in, std::optional<std::int64_t> window) {
  AttentionForm form = in.form;
  form.window = window;
  const Tensor out = attention(in.q_NHd, in.k_NKd, in.v_NKd, in.segments, form, in.prefix, in.keys);
  std::vector<Tensor> inputs{in.q_NHd, in.k_NKd, in.v_NKd};
  for (const Tensor& parameter : {form.sinks_H, form.bias_BH})
    if (parameter.defined()) inputs.push_back(parameter);
  auto results = torch::autograd::grad({(out * in.weight_NHd).sum()}, inputs);
  results.insert(results.begin(), out);
  return results;
}

const auto blocked = [](const Tensor& q, const Tensor& k, const Tensor& v, const std::vector<Segment>& segments,
                        const AttentionForm& form, const KeysValues& prefix, const std::vector<KeyRange>& keys) {
  return detail::blocked_attention(q, k, v, prefix, segments, keys, form);
};

void check_problem(const Problem& problem, std::optional<std::int64_t> window, double tolerance = 2e-5) {
  const auto expected = run(attention_composed, problem.as(at::kDouble), window);
  for (const auto type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const auto got = run(blocked, problem.as(type), window);
    for (std::size_t i = 0; i < got.size(); ++i) {
      const Tensor difference = (got[i].to(at::kDouble) - expected[i]).abs();
      CAPTURE(type, i, difference.max().item<double>());
      REQUIRE(got[i].scalar_type() == (i < 4 || !problem.form.bias_BH.defined() ? type : at::kFloat));
      const double scale = std::max(1.0, expected[i].abs().max().item<double>());
      CHECK(difference.max().item<double>() <= scale * (type == at::kFloat  ? tolerance
                                                        : type == at::kHalf ? 2.5e-3
                                                                            : 2e-2));
    }
  }
}

/// Calls visit(problem, window) for all shapes and kinds of segments.
template <class Visit>
void for_problems(const Visit& visit) {
  using Shape = std::tuple<std::int64_t, std::int64_t, std::int64_t>;
  for (const auto& [heads, kv_heads, width] :
       {Shape{2, 2, 16}, Shape{6, 2, 64}, Shape{3, 1, 48}, Shape{2, 1, 96}, Shape{4, 4, 128}})
    for (const std::optional<std::int64_t> window :
         {std::optional<std::int64_t>(), std::optional<std::int64_t>(1), std::optional<std::int64_t>(65),
          std::optional<std::int64_t>(100)}) {
      CAPTURE(heads, kv_heads, width, window.value_or(0));
      visit(make_problem({{.begin = 0, .length = 1},
                          {.begin = 1, .length = 63},
                          {.begin = 64, .length = 64},
                          {.begin = 128, .length = 65},
                          {.begin = 193, .length = 200}},
                         heads, kv_heads, width),
            window);
      // A prompt of 70 tokens with two completions, a row of its own, a prompt with one completion.
      visit(make_problem({{.begin = 0, .length = 70},
                          {.begin = 70, .length = 30, .prefix_begin = 0, .prefix_length = 70},
                          {.begin = 100, .length = 90, .prefix_begin = 0, .prefix_length = 70},
                          {.begin = 190, .length = 20},
                          {.begin = 210, .length = 5},
                          {.begin = 215, .length = 66, .prefix_begin = 210, .prefix_length = 5}},
                         heads, kv_heads, width),
            window);
      visit(make_problem({{.begin = 0, .length = 40, .prefix_begin = 3, .prefix_length = 130},
                          {.begin = 40, .length = 70, .prefix_begin = 0, .prefix_length = 1}},
                         heads, kv_heads, width, 140),
            window);
    }
}

TEST_CASE("blocked attention is attention", "[attention]") {
  at::manual_seed(3);
  for_problems([](const Problem& problem, std::optional<std::int64_t> window) { check_problem(problem, window); });
}

/// Attention of each segment to the keys that a PackedLayout gathers for it: what the kernels for a GPU compute.
Tensor attention_by_layout(const Tensor& q, const Tensor& k, const Tensor& v, const std::vector<Segment>& segments,
                           const AttentionForm& form, const KeysValues& prefix, const std::vector<KeyRange>&) {
  const auto layout = detail::packed_layout(segments, !prefix.k_NKd.defined(), q.device());
  CHECK(layout == detail::packed_layout(segments, !prefix.k_NKd.defined(), q.device()));
  const Tensor keys = layout->gathered(k, prefix.k_NKd), values = layout->gathered(v, prefix.v_NKd);
  const auto parts = [](const Tensor& x, const Tensor& starts) {
    const Tensor sizes = starts.diff().to(at::kLong);
    const auto* data = sizes.const_data_ptr<std::int64_t>();
    return x.split_with_sizes(std::vector<std::int64_t>(data, data + sizes.numel()));
  };
  const auto q_parts = parts(q, layout->query_starts), k_parts = parts(keys, layout->key_starts),
             v_parts = parts(values, layout->key_starts);
  std::vector<Tensor> out;
  for (std::size_t s = 0; s < q_parts.size(); ++s) {
    CHECK(q_parts[s].size(0) <= layout->longest_query);
    CHECK(k_parts[s].size(0) <= layout->longest_key);
    out.push_back(detail::attend(q_parts[s], k_parts[s], v_parts[s], form));
  }
  return at::cat(out);
}

TEST_CASE("a packed layout gathers the keys of each segment and adds up their gradients", "[attention]") {
  at::manual_seed(8);
  for_problems([](const Problem& given, std::optional<std::int64_t> window) {
    const Problem problem = given.as(at::kDouble);
    const auto expected = run(attention_composed, problem, window), got = run(attention_by_layout, problem, window);
    for (std::size_t i = 0; i < got.size(); ++i) CHECK(at::allclose(got[i], expected[i], 1e-10, 1e-10));
    const auto layout = detail::packed_layout(problem.segments, !problem.prefix.k_NKd.defined(), at::kCPU);
    const Tensor keys = layout->gathered(problem.k_NKd, problem.prefix.k_NKd);
    const Tensor grad = at::randn(keys.sizes(), keys.options().requires_grad(false));
    const std::int64_t kept = problem.prefix.k_NKd.defined() ? problem.prefix.k_NKd.size(0) : 0;
    CHECK(at::allclose(
        layout->scattered(grad, problem.k_NKd.size(0), kept),
        keys.requires_grad() && keys.grad_fn() ? torch::autograd::grad({keys}, {problem.k_NKd}, {grad})[0] : grad));
  });
}

TEST_CASE("attention of a padded batch is attention", "[attention]") {
  at::manual_seed(8);
  const auto padded = [](const Tensor& q, const Tensor& k, const Tensor& v, const std::vector<Segment>& segments,
                         const AttentionForm& form, const KeysValues& prefix, const std::vector<KeyRange>&) {
    return detail::padded_attention(q, k, v, segments, form, prefix);
  };
  for_problems([&](const Problem& given, std::optional<std::int64_t> window) {
    Problem problem = given;
    if (window == 65) problem.form.soft_cap = 3;
    if (window == 100) problem.form.sinks_H = at::randn({given.q_NHd.size(1)});
    problem = problem.as(at::kDouble);
    const auto expected = run(attention_composed, problem, window), got = run(padded, problem, window);
    for (std::size_t i = 0; i < got.size(); ++i) CHECK(at::allclose(got[i], expected[i], 1e-10, 1e-10));
  });
  using Segments = std::vector<Segment>;
  CHECK(detail::takes_padded_attention(Segments{{.length = 9}, {.begin = 9, .length = 7}}, {}));
  CHECK_FALSE(
      detail::takes_padded_attention(Segments{{.length = 9}, {.begin = 9, .length = 9}}, {}));  // a batch as it is
  CHECK_FALSE(detail::takes_padded_attention(Segments{{.length = 900},
                                                      {.begin = 900, .length = 1},
                                                      {.begin = 901, .length = 1},
                                                      {.begin = 902, .length = 1},
                                                      {.begin = 903, .length = 1}},
                                             {}));  // most of the batch would be padding
}

TEST_CASE("attention on a GPU is attention", "[attention][gpu]") {
  if (!at::hasCUDA()) return;
  at::manual_seed(9);
  for_problems([](const Problem& problem, std::optional<std::int64_t> window) {
    const auto expected = run(attention_composed, problem.as(at::kDouble), window);
    for (const auto type : {at::kFloat, at::kBFloat16, at::kHalf, at::kDouble}) {
      Problem on_gpu = problem;
      for (Tensor* tensor : {&on_gpu.q_NHd, &on_gpu.k_NKd, &on_gpu.v_NKd, &on_gpu.weight_NHd, &on_gpu.prefix.k_NKd,
                             &on_gpu.prefix.v_NKd})
        if (tensor->defined()) *tensor = tensor->to(at::kCUDA);
      const Problem typed = on_gpu.as(type);
      const auto kernel = detail::packed_kernel(typed.q_NHd, typed.k_NKd, typed.v_NKd, window.has_value());
      CHECK((kernel == detail::PackedKernel::none) == (type == at::kDouble || (type == at::kFloat && window)));
      const auto got = run(attention, typed, window);
      for (std::size_t i = 0; i < got.size(); ++i) {
        const Tensor difference = (got[i].cpu().to(at::kDouble) - expected[i]).abs();
        CAPTURE(type, i, difference.max().item<double>());
        REQUIRE(got[i].scalar_type() == type);
        const double scale = std::max(1.0, expected[i].abs().max().item<double>());
        CHECK(difference.max().item<double>() <= scale * (wide_type(type) == type ? 2e-5 : 2e-2));
      }
    }
  });
}

TEST_CASE("blocked attention takes values of another width", "[attention]") {
  at::manual_seed(8);
  for (const auto& [width, value_width] : {std::array{48, 32}, std::array{16, 48}}) {
    CAPTURE(width, value_width);
    check_problem(make_problem({{.begin = 0, .length = 70},
                                {.begin = 70, .length = 30, .prefix_begin = 0, .prefix_length = 70},
                                {.begin = 100, .length = 130}},
                               4, 2, width, 0, value_width),
                  std::nullopt);
    check_problem(make_problem({{.begin = 0, .length = 40, .prefix_begin = 3, .prefix_length = 130}}, 2, 2, width, 140,
                               value_width),
                  50);
  }
}

/// Scores that are more than products: the form, for that many heads.
std::vector<AttentionForm> forms(std::int64_t heads) {
  const Tensor sinks_H = (at::randn({heads}) * 3).to(at::kBFloat16).to(at::kDouble);
  return {{.scale = 0.2, .sinks_H = sinks_H},
          {.scale = 0.2, .soft_cap = 2},
          {.scale = 0.2, .soft_cap = 50},
          {.scale = 0.2, .alibi = AlibiSpec{}},
          {.scale = 0.2, .alibi = AlibiSpec{.scale = 0.3, .in_bfloat16 = true}}};
}

TEST_CASE("blocked attention takes sinks, soft caps and biases", "[attention]") {
  at::manual_seed(7);
  for (const auto& [heads, kv_heads, width] : {std::array{2, 2, 16}, std::array{6, 2, 64}})
    for (const std::optional<std::int64_t> window : {std::optional<std::int64_t>(), std::optional<std::int64_t>(9)})
      for (const AttentionForm& form : forms(heads)) {
        CAPTURE(heads, kv_heads, width, window.value_or(0), form.soft_cap, form.alibi.has_value());
        Problem problem = make_problem({{.begin = 0, .length = 70},
                                        {.begin = 70, .length = 30, .prefix_begin = 0, .prefix_length = 70},
                                        {.begin = 100, .length = 1},
                                        {.begin = 101, .length = 200}},
                                       heads, kv_heads, width);
        problem.form = form;
        check_problem(problem, window);
        problem = make_problem({{.begin = 0, .length = 40, .prefix_begin = 3, .prefix_length = 130}}, heads, kv_heads,
                               width, 140);
        problem.form = form;
        check_problem(problem, window);
      }
}

/// With biases by distance, of which few buckets hold one each.
AttentionForm relative_form(std::int64_t heads, bool is_bidirectional, double scale = 1) {
  const RelativeBiasSpec spec{.num_buckets = 12, .max_distance = 70, .is_bidirectional = is_bidirectional};
  return {.scale = scale, .relative = spec, .bias_BH = at::randn({12, heads}).to(at::kDouble)};
}

TEST_CASE("blocked attention takes relative biases and sums their gradients by bucket", "[attention]") {
  at::manual_seed(11);
  for (const auto& [heads, kv_heads, width] : {std::array{2, 2, 16}, std::array{6, 2, 64}})
    for (const std::optional<std::int64_t> window : {std::optional<std::int64_t>(), std::optional<std::int64_t>(80)}) {
      CAPTURE(heads, window.value_or(0));
      Problem problem = make_problem({{.begin = 0, .length = 70},
                                      {.begin = 70, .length = 30, .prefix_begin = 0, .prefix_length = 70},
                                      {.begin = 100, .length = 1},
                                      {.begin = 101, .length = 200}},
                                     heads, kv_heads, width);
      problem.form = relative_form(heads, false, 0.3);
      check_problem(problem, window);
      problem.form.soft_cap = 4;
      check_problem(problem, window);
      problem = make_problem({{.begin = 0, .length = 40, .prefix_begin = 3, .prefix_length = 130}}, heads, kv_heads,
                             width, 140);
      problem.form = relative_form(heads, false, 0.3);
      check_problem(problem, window);
    }
}

TEST_CASE("blocked attention goes in both directions, and to the keys of others", "[attention]") {
  at::manual_seed(12);
  for (const auto& [heads, kv_heads, width] : {std::array{2, 2, 16}, std::array{6, 2, 64}, std::array{3, 1, 96}}) {
    CAPTURE(heads);
    // Each segment's own tokens, the last of one padding.
    Problem problem = make_problem({{.begin = 0, .length = 1},
                                    {.begin = 1, .length = 63},
                                    {.begin = 64, .length = 64},
                                    {.begin = 128, .length = 65},
                                    {.begin = 193, .length = 200}},
                                   heads, kv_heads, width);
    problem.keys = {{0, 1}, {1, 63}, {64, 64}, {128, 60}, {193, 200}};
    check_problem(problem, std::nullopt);
    problem.form = relative_form(heads, true, 0.3);
    check_problem(problem, std::nullopt);
    // Keys of another row, which segments share, fewer and more than there are queries; prefixes play no part.
    problem = make_problem({{.begin = 0, .length = 150, .prefix_begin = 3, .prefix_length = 2},
                            {.begin = 150, .length = 3},
                            {.begin = 153, .length = 70},
                            {.begin = 223, .length = 5}},
                           heads, kv_heads, width);
    const Problem encoded = make_problem({{.begin = 0, .length = 140}}, heads, kv_heads, width);
    problem.k_NKd = encoded.k_NKd;
    problem.v_NKd = encoded.v_NKd;
    problem.keys = {{0, 70}, {70, 66}, {0, 70}, {60, 30}};
    check_problem(problem, std::nullopt);
    problem.form = relative_form(heads, true, 0.3);
    check_problem(problem, std::nullopt);
    problem.keys[1].length = 0;
    CHECK_THROWS_WITH(run(attention, problem.as(at::kFloat), std::nullopt), KTO_CONTAINS("no keys"));
  }
}

TEST_CASE("a next token's attention, as in generation, is attention", "[attention]") {
  at::manual_seed(6);
  const at::NoGradGuard no_grad;
  for (const auto& [heads, kv_heads, width] : {std::array{2, 2, 16}, std::array{6, 2, 20}, std::array{3, 1, 64}})
    for (const std::int64_t before : {1, 17, 300})
      for (const std::optional<std::int64_t> window :
           {std::optional<std::int64_t>(), std::optional<std::int64_t>(1), std::optional<std::int64_t>(8)}) {
        Problem wide = make_problem({{.begin = 0, .length = 1, .prefix_begin = 2, .prefix_length = before}}, heads,
                                    kv_heads, width, before + 5, before == 300 ? 24 : 0);
        if (before == 17) wide.form = forms(heads)[static_cast<std::size_t>(window.value_or(0)) % 5];
        if (before == 300) wide.form = relative_form(heads, false);
        const auto attend = [&](const auto& attention, at::ScalarType type) {
          const Problem in = wide.as(type);
          AttentionForm form = in.form;
          form.window = window;
          return attention(in.q_NHd, in.k_NKd, in.v_NKd, in.segments, form, in.prefix, in.keys).to(at::kDouble);
        };
        const Tensor expected = attend(attention_composed, at::kDouble);
        CAPTURE(heads, kv_heads, width, before, window.value_or(0));
        CHECK((attend(attention, at::kFloat) - expected).abs().max().item<double>() < 2e-5);
        CHECK((attend(attention, at::kHalf) - expected).abs().max().item<double>() < 2.5e-3);
        CHECK((attend(attention, at::kBFloat16) - expected).abs().max().item<double>() < 2e-2);
        CHECK((attend(attention, at::kDouble) - expected).abs().max().item<double>() < 1e-12);
        if (window) continue;
        wide.k_NKd = wide.prefix.k_NKd;  // an encoder's
        wide.v_NKd = wide.prefix.v_NKd;
        wide.keys = {{3, before}};
        wide.form = relative_form(heads, true);
        const Tensor across = attend(attention_composed, at::kDouble);
        CHECK((attend(attention, at::kFloat) - across).abs().max().item<double>() < 2e-5);
        CHECK((attend(attention, at::kBFloat16) - across).abs().max().item<double>() < 2e-2);
      }
}

TEST_CASE("attention to great scores neither overflows nor forgets", "[attention]") {
  at::manual_seed(4);
  Problem problem = make_problem({{.begin = 0, .length = 100}}, 2, 1, 32);
  problem.q_NHd *= 64;
  check_problem(problem, std::nullopt, 1e-4);  // scores of hundreds, each rounded
}

TEST_CASE("what one segment holds never reaches another", "[attention]") {
  at::manual_seed(5);
  Problem problem = make_problem({{.begin = 0, .length = 70}, {.begin = 70, .length = 70}}, 2, 2, 32);
  problem.k_NKd.narrow(0, 70, 70).fill_(std::numeric_limits<double>::quiet_NaN());
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const auto got = run(blocked, problem.as(type), std::nullopt);
    for (const Tensor& tensor : got) CHECK(tensor.narrow(0, 0, 70).isfinite().all().item<bool>());
    CHECK(got[0].narrow(0, 70, 70).isnan().all().item<bool>());
  }
}

TEST_CASE("attention of no tokens, of other types and widths, and twice differentiated", "[attention]") {
  CHECK(attention(at::zeros({0, 2, 16}), at::zeros({0, 1, 16}), at::zeros({0, 1, 16}), {}, AttentionForm{}).sizes() ==
        at::IntArrayRef({0, 2, 16}));
  const Problem problem = make_problem({{.begin = 0, .length = 20}}, 2, 1, 24);
  const auto odd = run(attention, problem.as(at::kFloat), std::nullopt);
  const auto expected = run(attention_composed, problem.as(at::kFloat), std::nullopt);
  for (std::size_t i = 0; i < odd.size(); ++i) CHECK(at::equal(odd[i], expected[i]));
  const Problem plain = make_problem({{.begin = 0, .length = 20}}, 2, 1, 16).as(at::kFloat);
  const Tensor out = attention(plain.q_NHd, plain.k_NKd, plain.v_NKd, plain.segments, AttentionForm{});
  CHECK_THROWS_WITH(torch::autograd::grad({out.sum()}, {plain.q_NHd}, {}, std::nullopt, /*create_graph=*/true),
                    KTO_CONTAINS("attention_composed"));
}

}  // namespace
}  // namespace kto::test
