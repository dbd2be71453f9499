// SPDX-License-Identifier: Apache-2.0
// The kernels of attention against LibTorch's operators in float64: outputs and gradients, over lengths around a block,
// grouped heads, widths, windows, prefixes in the row and kept from another one. The kernels for a GPU run on machines
// that have one.
#include <ATen/ops/allclose.h>
#include <ATen/ops/randn.h>
#include <torch/library.h>

#include "catch.hpp"
#include "kto/nn/attention.hpp"

namespace kto::test::test_attention {
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

/// Scores that are more than products: the form, for that many heads.
std::vector<AttentionForm> forms(std::int64_t heads) {
  const Tensor sinks_H = (at::randn({heads}) * 3).to(at::kBFloat16).to(at::kDouble);
  return {{.scale = 0.2, .sinks_H = sinks_H},
          {.scale = 0.2, .soft_cap = 2},
          {.scale = 0.2, .soft_cap = 50},
          {.scale = 0.2, .alibi = AlibiSpec{}},
          {.scale = 0.2, .alibi = AlibiSpec{.scale = 0.3, .in_bfloat16 = true}}};
}

/// With biases by distance, of which few buckets hold one each.
AttentionForm relative_form(std::int64_t heads, bool is_bidirectional, double scale = 1) {
  const RelativeBiasSpec spec{.num_buckets = 12, .max_distance = 70, .is_bidirectional = is_bidirectional};
  return {.scale = scale, .relative = spec, .bias_BH = at::randn({12, heads}).to(at::kDouble)};
}

// Stand-ins on the CPU for LibTorch's kernels for a GPU, with their contracts: sequences by their starts, a causal mask
// or window that ends at the last key, a backward pass from output and log of the sum alone.
struct Sequence {
  Tensor q_HLd, k_HSd, v_HSd, visible_LS;
  std::int64_t query, key;  ///< where they begin
  double scale;

  Tensor scores() const {
    return (at::matmul(q_HLd, k_HSd.transpose(1, 2)) * scale).masked_fill(visible_LS.logical_not(), detail::never_seen);
  }
};

std::vector<Sequence> sequences_of(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& query_starts,
                                   const Tensor& key_starts, std::int64_t longest_query, std::int64_t longest_key,
                                   bool is_causal, double scale, std::optional<std::int64_t> before) {
  for (const Tensor* x : {&q, &k, &v}) {
    REQUIRE(x->is_contiguous());
    REQUIRE(x->dim() == 3);
    REQUIRE(x->size(2) == q.size(2));
    REQUIRE(x->size(2) % 8 == 0);
  }
  REQUIRE(query_starts.scalar_type() == at::kInt);
  REQUIRE(key_starts.scalar_type() == at::kInt);
  REQUIRE(query_starts.numel() == key_starts.numel());
  const auto *of_queries = query_starts.const_data_ptr<std::int32_t>(),
             *of_keys = key_starts.const_data_ptr<std::int32_t>();
  const std::int64_t count = query_starts.numel() - 1, shared = q.size(1) / k.size(1);
  REQUIRE(of_queries[count] == q.size(0));
  REQUIRE(of_keys[count] == k.size(0));  // gradients of other rows would not be written
  std::vector<Sequence> out;
  std::int64_t most_queries = 0, most_keys = 0;
  for (std::int64_t s = 0; s < count; ++s) {
    const std::int64_t first = of_queries[s], L = of_queries[s + 1] - first, key = of_keys[s], S = of_keys[s + 1] - key;
    const auto of_keys_here = [&](const Tensor& x) {
      return x.narrow(0, key, S).repeat_interleave(shared, 1).transpose(0, 1).to(at::kDouble);
    };
    Tensor visible = at::ones({L, S}, at::kBool);
    if (is_causal) visible = visible.tril(S - L);
    if (before) visible = visible.triu(S - L - *before);
    out.push_back({q.narrow(0, first, L).transpose(0, 1).to(at::kDouble), of_keys_here(k), of_keys_here(v), visible,
                   first, key, scale});
    most_queries = std::max(most_queries, L);
    most_keys = std::max(most_keys, S);
  }
  REQUIRE(most_queries == longest_query);
  REQUIRE(most_keys == longest_key);
  return out;
}

using Flash = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
Flash flash_forward(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& query_starts,
                    const std::optional<Tensor>& key_starts, c10::SymInt longest_query, c10::SymInt longest_key,
                    double dropout, bool is_causal, bool, std::optional<double> scale,
                    std::optional<c10::SymInt> before, std::optional<c10::SymInt> after) {
  REQUIRE(dropout == 0);
  REQUIRE(before.has_value() == after.has_value());
  REQUIRE((!before || is_causal));
  const Tensor out = at::empty_like(q), log_sum = at::empty({q.size(1), q.size(0)}, at::kDouble);
  for (const Sequence& at :
       sequences_of(q, k, v, *query_starts, *key_starts, longest_query.expect_int(), longest_key.expect_int(),
                    is_causal, *scale, before ? std::optional(before->expect_int()) : std::nullopt)) {
    const Tensor scores = at.scores();
    out.narrow(0, at.query, scores.size(1)).copy_(at::matmul(scores.softmax(-1), at.v_HSd).transpose(0, 1));
    log_sum.narrow(1, at.query, scores.size(1)).copy_(scores.logsumexp(-1));
  }
  return {out, log_sum, at::empty({2}), at::empty({}), at::empty({})};
}

std::tuple<Tensor, Tensor, Tensor> flash_backward(const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v,
                                                  const Tensor& out, const Tensor& log_sum, const Tensor& query_starts,
                                                  const Tensor& key_starts, c10::SymInt longest_query,
                                                  c10::SymInt longest_key, double, bool is_causal, const Tensor&,
                                                  const Tensor&, std::optional<double> scale,
                                                  std::optional<c10::SymInt> before, std::optional<c10::SymInt>) {
  REQUIRE(grad.is_contiguous());
  const Tensor dq = at::empty_like(q), dk = at::empty_like(k), dv = at::empty_like(v);
  for (const Sequence& at :
       sequences_of(q, k, v, query_starts, key_starts, longest_query.expect_int(), longest_key.expect_int(), is_causal,
                    *scale, before ? std::optional(before->expect_int()) : std::nullopt)) {
    const std::int64_t L = at.q_HLd.size(1), S = at.k_HSd.size(1);
    const auto of_queries = [&](const Tensor& x) { return x.narrow(0, at.query, L).transpose(0, 1).to(at::kDouble); };
    const Tensor weights = (at.scores() - log_sum.narrow(1, at.query, L).unsqueeze(2)).exp(), dout = of_queries(grad);
    const Tensor change = (dout * of_queries(out)).sum(-1, true);
    const Tensor of_scores = weights * (at::matmul(dout, at.v_HSd.transpose(1, 2)) - change) * *scale;
    const auto of_keys = [&](const Tensor& x_HSd) {  // queries that share a key add up
      return x_HSd.transpose(0, 1).unflatten(1, {k.size(1), -1}).sum(2);
    };
    dq.narrow(0, at.query, L).copy_(at::matmul(of_scores, at.k_HSd).transpose(0, 1));
    dk.narrow(0, at.key, S).copy_(of_keys(at::matmul(of_scores.transpose(1, 2), at.q_HLd)));
    dv.narrow(0, at.key, S).copy_(of_keys(at::matmul(weights.transpose(1, 2), dout)));
  }
  return {dq, dk, dv};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, c10::SymInt, c10::SymInt> efficient_forward(
    const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>&,
    const std::optional<Tensor>& query_starts, const std::optional<Tensor>& key_starts,
    std::optional<c10::SymInt> longest_query, std::optional<c10::SymInt> longest_key, double dropout, std::int64_t mask,
    bool, std::optional<double> scale, const std::optional<Tensor>&, std::optional<std::int64_t> window) {
  REQUIRE(q.size(0) == 1);
  REQUIRE(k.size(2) == q.size(2));
  REQUIRE(!window);
  REQUIRE((mask == 0 || mask == 2));
  auto [out, log_sum, seed, offset, none] =
      flash_forward(q[0], k[0], v[0], query_starts, key_starts, *longest_query, *longest_key, dropout, mask == 2, false,
                    scale, std::nullopt, std::nullopt);
  return {out.unsqueeze(0), log_sum, seed, offset, *longest_query, *longest_key};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> efficient_backward(
    const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>&,
    const Tensor& out, const std::optional<Tensor>& query_starts, const std::optional<Tensor>& key_starts,
    c10::SymInt longest_query, c10::SymInt longest_key, const Tensor& log_sum, double dropout, const Tensor& seed,
    const Tensor& offset, std::int64_t mask, bool, std::optional<double> scale, std::optional<std::int64_t>,
    std::optional<std::int64_t>, bool) {
  const auto [dq, dk, dv] =
      flash_backward(grad[0], q[0], k[0], v[0], out[0], log_sum, *query_starts, *key_starts, longest_query, longest_key,
                     dropout, mask == 2, seed, offset, scale, std::nullopt, std::nullopt);
  return {dq.unsqueeze(0), dk.unsqueeze(0), dv.unsqueeze(0), Tensor()};
}

/// Registers them for as long as it lives.
struct StandIns {
  torch::Library library{torch::Library::IMPL, "aten", at::DispatchKey::CPU, __FILE__, __LINE__};
  StandIns() {
    library.impl("_flash_attention_backward", flash_backward);
    library.impl("_efficient_attention_forward", efficient_forward);
    library.impl("_efficient_attention_backward", efficient_backward);
    // LibTorch 2.13 and later have more arguments, which kto leaves alone.
    library.impl("_flash_attention_forward", torch::CppFunction::makeFromBoxedFunction<&boxed_flash_forward>());
  }
  static void boxed_flash_forward(const c10::OperatorHandle&, torch::jit::Stack* stack);
};

void StandIns::boxed_flash_forward(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto arguments = torch::jit::last(stack, op.schema().arguments().size()).vec();
  const auto number = [&](std::size_t i) { return arguments[i].toSymInt(); };
  const auto given = [&](std::size_t i) {
    return arguments[i].isNone() ? std::nullopt : std::optional(arguments[i].toSymInt());
  };
  auto [out, log_sum, seed, offset, none] =
      flash_forward(arguments[0].toTensor(), arguments[1].toTensor(), arguments[2].toTensor(), arguments[3].toTensor(),
                    arguments[4].toTensor(), number(5), number(6), arguments[7].toDouble(), arguments[8].toBool(),
                    arguments[9].toBool(), arguments[10].toDouble(), given(11), given(12));
  torch::jit::drop(stack, arguments.size());
  for (Tensor& tensor : std::array{out, log_sum, seed, offset, none}) stack->emplace_back(std::move(tensor));
}

/// Attention by the stand-in for `kernel`, and by composition where that does not take it; says which in `taken`.
auto packed_by(detail::PackedKernel kernel, bool& taken) {
  return [kernel, &taken](const Tensor& q, const Tensor& k, const Tensor& v, const std::vector<Segment>& segments,
                          const AttentionForm& form, const KeysValues& prefix, const std::vector<KeyRange>& keys) {
    const auto choose = [&](const Tensor&) { return kernel; };
    auto out = detail::packed_attention(q, k, v, prefix, segments, keys, form, choose);
    taken = out.has_value();
    return out ? *out : attention_composed(q, k, v, segments, form, prefix, keys);
  };
}

void check_packed(const Problem& given, std::optional<std::int64_t> window, bool of_flash, bool of_efficient) {
  const Problem problem = given.as(at::kDouble);
  const auto expected = run(attention_composed, problem, window);
  for (const auto& [kernel, takes] :
       {std::pair{detail::PackedKernel::flash, of_flash}, {detail::PackedKernel::efficient, of_efficient}}) {
    bool taken = false;
    const auto got = run(packed_by(kernel, taken), problem, window);
    CHECK(taken == takes);
    for (std::size_t i = 0; i < got.size(); ++i) {
      CAPTURE(static_cast<int>(kernel), i, (got[i] - expected[i]).abs().max().item<double>());
      CHECK(at::allclose(got[i], expected[i], 1e-9, 1e-9));
    }
  }
}

const std::vector<Segment> with_prompts{{.begin = 0, .length = 70},
                                        {.begin = 70, .length = 30, .prefix_begin = 0, .prefix_length = 70},
                                        {.begin = 100, .length = 1},
                                        {.begin = 101, .length = 200}};

TEST_CASE("attention of all segments in one call is attention", "[attention]") {
  at::manual_seed(8);
  const StandIns stand_ins;
  for_problems([](const Problem& problem, std::optional<std::int64_t> window) {
    check_packed(problem, window, true, !window);  // all windows are shorter than the longest segment
  });
  for (const auto& [width, value_width] : {std::array{24, 16}, std::array{16, 40}, std::array{20, 20}}) {
    CAPTURE(width, value_width);
    check_packed(make_problem(with_prompts, 4, 2, width, 0, value_width), 40, true, false);
    check_packed(make_problem({{.begin = 0, .length = 40, .prefix_begin = 3, .prefix_length = 130}}, 4, 2, width, 140,
                              value_width),
                 std::nullopt, true, true);
  }
  check_packed(make_problem(with_prompts, 2, 2, 16), 270, true, true);  // a window that hides nothing
}

TEST_CASE("attention of all segments in one call takes sinks and ranges of keys", "[attention]") {
  at::manual_seed(13);
  const StandIns stand_ins;
  Problem problem = make_problem(with_prompts, 6, 2, 20);
  const Tensor encoded_k = at::randn({140, 2, 20}, at::kDouble), encoded_v = at::randn({140, 2, 20}, at::kDouble);
  for (const std::optional<std::int64_t> window : {std::optional<std::int64_t>(), std::optional<std::int64_t>(9)})
    for (const AttentionForm& form : forms(6)) {
      problem.form = form;
      check_packed(problem, window, form.sinks_H.defined(), false);
    }
  problem.form = relative_form(6, false);
  check_packed(problem, std::nullopt, false, false);
  problem.form = {.scale = 0.2};
  problem.keys = {{0, 70}, {70, 30}, {100, 1}, {101, 150}};  // in both directions, the end of one hidden
  check_packed(problem, std::nullopt, true, true);
  problem.k_NKd = encoded_k;
  problem.v_NKd = encoded_v;
  problem.keys = {{0, 70}, {70, 66}, {0, 70}, {60, 30}};
  check_packed(problem, std::nullopt, true, true);
  problem.keys = {{0, 40}, {40, 50}, {90, 10}, {100, 40}};  // all rows in their order
  check_packed(problem, std::nullopt, true, true);
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
  const auto on_gpu = [](const Problem& given, std::optional<std::int64_t> window) {
    const auto expected = run(attention_composed, given.as(at::kDouble), window);
    for (const auto type : {at::kFloat, at::kBFloat16, at::kHalf, at::kDouble}) {
      Problem problem = given;
      for (Tensor* tensor : {&problem.q_NHd, &problem.k_NKd, &problem.v_NKd, &problem.weight_NHd, &problem.prefix.k_NKd,
                             &problem.prefix.v_NKd, &problem.form.sinks_H, &problem.form.bias_BH})
        if (tensor->defined()) *tensor = tensor->to(at::kCUDA);
      const Problem typed = problem.as(type);
      CHECK((detail::packed_kernel(typed.q_NHd) == detail::PackedKernel::none) == (type == at::kDouble));
      const auto got = run(attention, typed, window);
      for (std::size_t i = 0; i < got.size(); ++i) {
        const Tensor difference = (got[i].cpu().to(at::kDouble) - expected[i]).abs();
        CAPTURE(type, i, difference.max().item<double>());
        REQUIRE(got[i].scalar_type() == (i < 4 || !problem.form.bias_BH.defined() ? type : wide_type(type)));
        const double scale = std::max(1.0, expected[i].abs().max().item<double>());
        CHECK(difference.max().item<double>() <= scale * (wide_type(type) == type ? 2e-5 : 2e-2));
      }
    }
  };
  for_problems(on_gpu);
  Problem problem = make_problem(with_prompts, 6, 2, 64);
  std::vector<AttentionForm> all = forms(6);
  all.push_back(relative_form(6, false, 0.3));
  for (const AttentionForm& form : all)
    for (const std::optional<std::int64_t> window : {std::optional<std::int64_t>(), std::optional<std::int64_t>(9)}) {
      problem.form = form;
      on_gpu(problem, window);
    }
  on_gpu(make_problem(with_prompts, 4, 2, 48, 0, 32), std::nullopt);
  problem.form = {.scale = 0.2};
  problem.keys = {{0, 70}, {70, 30}, {0, 70}, {101, 150}};
  on_gpu(problem, std::nullopt);
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
}  // namespace kto::test::test_attention
