// SPDX-License-Identifier: Apache-2.0
// The decoder against transformers (tests/golden/models), and its own paths against each other.
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <set>

#include "catch.hpp"
#include "device/guarded_counts.hpp"
#include "kto/collate/encoder_decoder.hpp"
#include "kto/model/concept.hpp"
#include "kto/model/folds.hpp"
#include "tests/model/model_cases.hpp"

namespace kto::test::test_decoder {
namespace {

static_assert(ModelPolicy<Decoder>);

struct Case {
  std::string name;
  ModelSpec config;
  std::vector<std::vector<std::int32_t>> ids;
  Json expected;
};

std::vector<Case> read_cases(const fs::path& folder) {
  std::vector<Case> cases;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() != ".json") continue;
    const Json json = read_json(entry.path());
    Case out{json["name"], parse_model_config(json["config"], entry.path().string()), {}, json["expected"]};
    for (std::size_t i = 0; i < json["lengths"].size(); ++i)
      out.ids.push_back(case_ids(i, json["lengths"][i], out.config.vocab_size));
    cases.push_back(std::move(out));
  }
  return cases;
}

std::vector<Case> all_cases() {
  auto cases = read_cases(fs::path(KTO_SOURCE_DIR) / "tests/golden/models");
  if (const char* more = std::getenv("KTO_MODEL_CASES"))
    for (auto& each : read_cases(more)) cases.push_back(std::move(each));
  return cases;
}

/// What a decoder gives for a case; hidden holds the states of each sequence's last token.
struct Result {
  Tensor logp_C, hidden, loss;
  std::vector<Tensor> grads;
};

Result run(const Decoder& decoder, const Case& each, bool padded) {
  const at::Device device = device_of(decoder);
  const Sequences sequences = to_device(case_sequences(each.ids, padded), device);
  const Tensor hidden_ND = decoder.hidden(sequences);
  REQUIRE(hidden_ND.scalar_type() == decoder.compute);
  std::vector<std::int64_t> last;
  for (std::size_t i = 0; i < each.ids.size(); ++i)
    last.push_back(sequences.segments[i].begin + static_cast<std::int64_t>(each.ids[i].size()) - 1);
  Result out;
  out.logp_C = case_logp(decoder, hidden_ND, sequences);
  out.hidden = hidden_ND.index_select(0, at::tensor(last).to(device)).to(at::kCPU, at::kDouble);
  out.loss = case_loss(out.logp_C);
  out.grads = gradients(decoder, out.loss);
  return out;
}

Tensor flat(const Json& rows) {
  std::vector<double> values;
  for (const Json& row : rows)
    for (const Json& value : row) values.push_back(value);
  return at::tensor(at::ArrayRef<double>(values), at::kDouble);
}

/// Largest errors against transformers: of log-probs, states and loss relative to 1 + their size, and of gradients
/// relative to their norm.
struct Errors {
  double value = 0, grad = 0;
};

Errors errors_of(const Result& result, const Decoder& decoder, const Json& expected) {
  Errors out;
  const auto compare = [&](const Tensor& got, const Tensor& want) {
    out.value = std::max(out.value, largest((got.to(at::kCPU, at::kDouble) - want) / (1 + want.abs())));
  };
  compare(result.logp_C, flat(expected["logp"]));
  const Tensor hidden = flat(expected["hidden"]).view({result.hidden.size(0), -1});
  compare(result.hidden.narrow(1, 0, hidden.size(1)), hidden);
  compare(result.loss, at::scalar_tensor(expected["loss"].get<double>(), at::kDouble));
  const auto names = decoder.named_parameters();
  REQUIRE(names.size() == expected["grads"].size());
  double largest_norm = 0;
  for (const Json& want : expected["grads"]) largest_norm = std::max(largest_norm, want[0].get<double>());
  for (std::size_t i = 0; i < names.size(); ++i) {
    const auto& [name, parameter] = names[i];
    const Json& want = expected["grads"].at(name);
    const Tensor grad = result.grads[i].to(at::kCPU, at::kDouble);
    const double norm = std::max(want[0].get<double>(), 1e-2 * largest_norm);
    const Tensor probe = noise_tensor("probe/" + name, grad.sizes());
    out.grad = std::max(out.grad, std::abs(grad.norm().item<double>() - want[0].get<double>()) / norm);
    out.grad = std::max(out.grad, std::abs((grad * probe).sum().item<double>() - want[1].get<double>()) / norm);
  }
  return out;
}

/// Recomputation adds the parts of a gradient in the same order, but where layers use the keys of earlier ones.
void check_same_gradients(const Decoder& decoder, const Result& a, const Result& b) {
  const bool shares = std::ranges::any_of(
      decoder.spec.layers, [](const LayerSpec& layer) { return layer.attention.kv.of_layer.has_value(); });
  const double rounding = decoder.compute == at::kDouble ? 1e-12 : decoder.compute == at::kFloat ? 1e-5 : 1e-2;
  for (std::size_t i = 0; i < a.grads.size(); ++i)
    CHECK((shares ? largest(a.grads[i] - b.grads[i]) <= rounding * largest(a.grads[i])
                  : at::equal(a.grads[i], b.grads[i])));
}

/// Scores half of a case's tokens: the states of the others may be left out.
void check_needed(Decoder decoder, const Case& each, bool padded) {
  Sequences sequences = case_sequences(each.ids, padded);
  const std::int64_t half = sequences.predict_C.size(0) / 2;
  sequences.predict_C = sequences.predict_C.slice(0, half);
  sequences.target_C = sequences.target_C.slice(0, half);
  const auto numbers = [&] {
    const Tensor hidden_ND = decoder.hidden(sequences), logp_C = case_logp(decoder, hidden_ND, sequences);
    return std::tuple(hidden_ND.detach(), logp_C.detach(), gradients(decoder, case_loss(logp_C)));
  };
  const auto [all_ND, all_logp_C, all_grads] = numbers();
  sequences.needed_S = sequences.predict_C;
  for (const bool recompute : {false, true}) {
    decoder.recompute = recompute;
    const auto [hidden_ND, logp_C, grads] = numbers();
    CHECK(largest(logp_C - all_logp_C) < 1e-12);
    for (std::size_t i = 0; i < grads.size(); ++i)
      CHECK(largest(grads[i] - all_grads[i]) <= 1e-11 * (1 + largest(all_grads[i])));
    Tensor needed_ND = at::zeros_like(all_ND);
    needed_ND.index_copy_(0, sequences.needed_S, all_ND.index_select(0, sequences.needed_S));
    CHECK(largest(hidden_ND - (decoder.auxiliary_coef() ? all_ND : needed_ND)) < 1e-12);
  }
}

TEST_CASE("decoders agree with transformers, padded and packed, with and without recomputation") {
  Errors worst32, worst64;
  for (const Case& each : all_cases()) {
    INFO(each.name);
    for (const auto dtype : {at::kDouble, at::kFloat}) {
      Decoder decoder = case_decoder(each.config, dtype);
      Errors& worst = dtype == at::kFloat ? worst32 : worst64;
      for (const bool padded : {false, true}) {
        decoder.recompute = false;
        const Result plain = run(decoder, each, padded);
        const Errors errors = errors_of(plain, decoder, each.expected);
        CHECK(errors.value < (dtype == at::kFloat ? 1e-5 : 1e-10));
        CHECK(errors.grad < (dtype == at::kFloat ? 1e-4 : 1e-9));
        worst = {std::max(worst.value, errors.value), std::max(worst.grad, errors.grad)};
        decoder.recompute = true;
        const Result again = run(decoder, each, padded);
        CHECK(at::equal(plain.logp_C, again.logp_C));
        check_same_gradients(decoder, plain, again);
        if (dtype == at::kDouble) check_needed(decoder, each, padded);
      }
    }
  }
  INFO("largest error in float32: " << worst32.value << ", gradients " << worst32.grad);
  INFO("largest error in float64: " << worst64.value << ", gradients " << worst64.grad);
  if (std::getenv("KTO_MODEL_CASES") != nullptr)
    std::cout << "float32 " << worst32.value << ' ' << worst32.grad << ", float64 " << worst64.value << ' '
              << worst64.grad << '\n';
}

TEST_CASE("decoders agree with transformers on a device without kernels of its own, and do not wait for it",
          "[.][guarded]") {
  for (const Case& each : all_cases()) {
    INFO(each.name);
    Decoder decoder = case_decoder(each.config, at::kFloat, at::Device("guarded:1"));
    const Sequences rows = to_device(case_sequences(each.ids, false), device_of(decoder));
    // The host reads how many rows each expert has, except in bfloat16 with rows of a multiple of 16 bytes.
    const auto num_read = [&](at::ScalarType type) {
      return std::ranges::count_if(decoder.layers, [&](const DecoderLayer& layer) {
        const Tensor& down = layer.experts.down;
        return down.defined() && (type == at::kFloat || down.size(1) % 8 != 0 || down.size(2) % 8 != 0);
      });
    };
    for (const auto type : {at::kBFloat16, at::kFloat}) {
      decoder.compute = type;
      const auto before = ask_guarded<GuardedCounts>("guarded_counts");
      decoder.hidden(rows).sum().backward();
      const auto after = ask_guarded<GuardedCounts>("guarded_counts");
      CHECK(after.waited_to_device == before.waited_to_device);
      CHECK(after.to_host - before.to_host == num_read(type));
      CHECK(after.scalars_to_host == before.scalars_to_host);
    }
    for (const bool recomputes : {false, true}) {
      decoder.recompute = recomputes;
      const Errors errors = errors_of(run(decoder, each, /*padded=*/recomputes), decoder, each.expected);
      CHECK(errors.value < 1e-5);
      CHECK(errors.grad < 1e-4);
    }
  }
}

TEST_CASE("a decoder's description has everything its numbers depend on besides its weights") {
  Json json = Json::parse(R"({"model_type": "llama", "vocab_size": 20, "hidden_size": 16, "intermediate_size": 8,
      "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64})");
  const auto described = [&] { return describe(case_decoder(parse_model_config(json, "case"), at::kFloat)); };
  std::set<std::string> all{described()};
  for (const auto& [key, value] : {std::pair<const char*, Json>{"rope_theta", 500.5},
                                   {"rms_norm_eps", 1.5e-6},
                                   {"hidden_act", "gelu"},
                                   {"pad_token_id", 3},
                                   {"rope_scaling", {{"rope_type", "linear"}, {"factor", 2.5}}}}) {
    json[key] = value;
    CHECK(all.insert(described()).second);
  }
  json["transformers_version"] = "1.2.3";
  CHECK_FALSE(all.insert(described()).second);
}

TEST_CASE("bfloat16 is about as far from float64 as torch's autocast") {
  double own = 0, autocast = 0;
  for (const Case& each : all_cases()) {
    Decoder decoder = case_decoder(each.config, at::kFloat);
    decoder.compute = at::kBFloat16;
    const Result result = run(decoder, each, false);
    CHECK(result.logp_C.scalar_type() == at::kFloat);
    CHECK(result.grads.front().scalar_type() == at::kFloat);
    own += (result.logp_C.to(at::kDouble) - flat(each.expected["logp"])).abs().mean().item<double>();
    autocast += each.expected["autocast_error"].get<double>();
    decoder.recompute = true;
    const Result again = run(decoder, each, false);
    check_same_gradients(decoder, result, again);
  }
  INFO("mean error " << own << ", of autocast " << autocast << " (sums over the cases)");
  CHECK(own < 1.1 * autocast);
  if (std::getenv("KTO_MODEL_CASES") != nullptr) std::cout << "bf16 " << own << ", autocast " << autocast << '\n';
}

TEST_CASE("float16, with three bits more, is nearer to float64 than bfloat16") {
  double half = 0, bfloat = 0;
  for (const Case& each : all_cases()) {
    Decoder decoder = case_decoder(each.config, at::kFloat);
    const auto error = [&](const Tensor& logp_C) {
      return (logp_C.to(at::kDouble) - flat(each.expected["logp"])).abs().mean().item<double>();
    };
    decoder.compute = at::kBFloat16;
    bfloat += error(run(decoder, each, false).logp_C);
    decoder.compute = at::kHalf;
    const Result result = run(decoder, each, false);
    CHECK(result.logp_C.scalar_type() == at::kFloat);
    CHECK(result.grads.front().scalar_type() == at::kFloat);
    half += error(result.logp_C);
    const Errors errors = errors_of(result, decoder, each.expected);
    INFO(each.name << ": values " << errors.value << ", gradients " << errors.grad);
    CHECK(errors.value < 1e-2);
    CHECK(errors.grad < 2e-2);
    decoder.recompute = true;
    const Result again = run(decoder, each, false);
    check_same_gradients(decoder, result, again);
  }
  INFO("mean error " << half << ", of bfloat16 " << bfloat << " (sums over the cases)");
  CHECK(half < bfloat / 5);
}

/// The loss of one sequence or pair, as in make_field_cases.py, and the norm of its gradient.
std::vector<double> config_numbers(const Json& config) {
  const Decoder decoder = case_decoder(parse_model_config(config, "config.json"), at::kDouble);
  const auto ids = [&](std::size_t i) { return case_ids(i, 12, decoder.spec.vocab_size); };
  Sequences row;
  if (decoder.spec.encoder.empty()) {
    row = case_sequences({ids(0)}, false);
  } else {
    const Example pair{.prompt_ids = ids(0), .completion_ids = ids(1)};
    const EncoderDecoderCollator collator{.start_token_id = decoder.spec.encoder.front().start_token_id};
    row = collator(std::vector<Pick>{{&pair}}, false).rows;
  }
  const Tensor loss = case_loss(case_logp(decoder, decoder.hidden(row), row));
  double squares = 0;
  for (const Tensor& grad : gradients(decoder, loss)) squares += grad.square().sum().item<double>();
  return {loss.item<double>(), std::sqrt(squares)};
}

TEST_CASE("the numbers of given configs", "[.]") {
  const char *given = std::getenv("KTO_CONFIGS"), *answer = std::getenv("KTO_CONFIG_NUMBERS");
  REQUIRE(given != nullptr);
  REQUIRE(answer != nullptr);
  Json out = Json::array();
  for (const Json& config : read_json(given)) {
    try {
      out.push_back({{"numbers", config_numbers(config)}});
    } catch (const Error& error) {
      out.push_back({{"refused", error.what()}});
    }
  }
  std::ofstream(answer) << out;
}

TEST_CASE("every field of a config has its effect or is refused by name") {
  const Json table = read_json(fs::path(KTO_SOURCE_DIR) / "tests/golden/models/fields/fields.json");
  for (const detail::Family* family : detail::families) {
    INFO(family->model_type << " is not in fields.json; see make_field_cases.py");
    REQUIRE(table.contains(family->model_type));
  }
  for (const auto& [family, of_family] : table.items())
    for (const Json& row : of_family["rows"]) {
      const std::string field = row[1], outcome = row[3];
      if (outcome == "not run") continue;
      Json config = of_family["bases"][row[0].get<std::size_t>()];
      config[field] = row[2];
      INFO(family << ": " << field << " = " << row[2].dump() << " is " << outcome);
      if (outcome == "refused") {
        CHECK_THROWS_WITH(config_numbers(config), KTO_CONTAINS(field.starts_with("rope_") ? "rope" : field));
        continue;
      }
      const auto numbers = config_numbers(config);
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        const double want = row[4][i];
        CHECK(std::abs(numbers[i] - want) <= 1e-9 * (1 + std::abs(want)));
      }
    }
}

/// A row [prompt, first, second] whose completions share the prompt, and the same as two whole sequences.
void check_shared_prompt(const ModelSpec& config) {
  const auto prompt = case_ids(0, 7, config.vocab_size), first = case_ids(1, 5, config.vocab_size),
             second = case_ids(2, 9, config.vocab_size);
  const auto joined = [](auto a, const auto& b) { return a.insert(a.end(), b.begin(), b.end()), a; };
  const Decoder decoder = case_decoder(config, at::kDouble);

  const auto whole = std::vector{joined(prompt, first), joined(prompt, second)};
  const Tensor separate_ND = decoder.hidden(case_sequences(whole, false));
  Sequences shared = case_sequences({joined(joined(prompt, first), second)}, false);
  shared.segments = {{.begin = 0, .length = 7},
                     {.begin = 7, .length = 5, .prefix_begin = 0, .prefix_length = 7},
                     {.begin = 12, .length = 9, .prefix_begin = 0, .prefix_length = 7}};
  shared.position_N = at::cat({at::arange(12), at::arange(7, 16)});
  const Tensor shared_ND = decoder.hidden(shared);

  const auto rows = [](const Tensor& x, std::initializer_list<std::pair<int, int>> ranges) {
    std::vector<Tensor> parts;
    for (const auto& [begin, end] : ranges) parts.push_back(x.slice(0, begin, end));
    return at::cat(parts);
  };
  const Tensor a = rows(separate_ND, {{0, 12}, {19, 28}}), b = shared_ND;
  CHECK(largest(a - b) < 1e-12);
  const Tensor probe = noise_tensor("probe", b.sizes());
  const auto grad_a = gradients(decoder, (a * probe).sum() + (rows(separate_ND, {{0, 7}}) * 0).sum());
  const auto grad_b = gradients(decoder, (b * probe).sum());
  for (std::size_t i = 0; i < grad_a.size(); ++i) CHECK(largest(grad_a[i] - grad_b[i]) < 1e-10);
}

TEST_CASE("a shared prompt gives what separate sequences give, values and gradients") {
  const char* base = R"({"model_type": "mistral", "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48,
                         "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2})";
  for (const Json& window : {Json(nullptr), Json(1), Json(4), Json(8), Json(100)}) {
    Json config = Json::parse(base);
    config["sliding_window"] = window;
    // The head is not part of what is compared.
    config["tie_word_embeddings"] = true;
    check_shared_prompt(parse_model_config(config, "test"));
  }
  check_shared_prompt(parse_model_config(
      Json::parse(R"({"model_type": "deepseek_v3", "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48,
                      "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 12,
                      "kv_lora_rank": 10, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 7,
                      "first_k_dense_replace": 2, "tie_word_embeddings": true})"),
      "test"));
}

Json experts_config() {
  return Json::parse(R"({"model_type": "qwen2_moe", "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48,
      "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 5,
      "num_experts_per_tok": 2, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 20,
      "mlp_only_layers": [1], "tie_word_embeddings": true})");
}

TEST_CASE("a shared prompt goes through experts as separate ones do") {
  check_shared_prompt(parse_model_config(experts_config(), "test"));
}

TEST_CASE("the load-balancing loss counts a token of each sequence once, and no padding") {
  const ModelSpec config = parse_model_config(experts_config(), "test");
  Decoder decoder = case_decoder(config, at::kDouble);
  const auto prompt = case_ids(0, 7, 60), first = case_ids(1, 5, 60), second = case_ids(2, 9, 60);
  const auto joined = [](auto a, const auto& b) { return a.insert(a.end(), b.begin(), b.end()), a; };
  const auto whole = std::vector{joined(prompt, first), joined(prompt, second)};
  Sequences shared = case_sequences({joined(joined(prompt, first), second)}, false);
  shared.segments = {{.begin = 0, .length = 7},
                     {.begin = 7, .length = 5, .prefix_begin = 0, .prefix_length = 7},
                     {.begin = 12, .length = 9, .prefix_begin = 0, .prefix_length = 7}};
  shared.lengths = {7, 5, 9};
  shared.position_N = at::cat({at::arange(12), at::arange(7, 16)});

  std::vector<Tensor> losses;
  std::vector<std::vector<Tensor>> grads;
  for (const bool recompute : {false, true})
    for (const Sequences& row : {case_sequences(whole, false), case_sequences(whole, true), shared}) {
      decoder.recompute = recompute;
      Trace of_row;
      const Tensor hidden_ND = decoder.hidden(row, {}, nullptr, &of_row);
      losses.push_back(of_row.auxiliary);
      grads.push_back(gradients(decoder, of_row.auxiliary + (hidden_ND * 0).sum()));
    }
  for (std::size_t i = 1; i < losses.size(); ++i) {
    CHECK(largest(losses[i] - losses[0]) < 1e-12);
    for (std::size_t p = 0; p < grads[0].size(); ++p) CHECK(largest(grads[i][p] - grads[0][p]) < 1e-12);
  }
  CHECK(losses[0].item<double>() > 2);  // what it is where all experts are used alike, and two per token
  CHECK(decoder.auxiliary_coef() == 0.001);
}

TEST_CASE("gradients of experts are added in place as autograd adds them") {
  const Decoder decoder = case_decoder(parse_model_config(experts_config(), "test"), at::kDouble);
  const Sequences batch = case_sequences({case_ids(0, 9, 60), case_ids(1, 4, 60)}, false);
  const auto loss = [&] { return case_loss(case_logp(decoder, decoder.hidden(batch), batch)); };
  const auto grads = gradients(decoder, loss());
  for (int pass = 1; pass <= 2; ++pass) {
    const InPlaceGradients in_place;
    loss().backward();
    const auto names = decoder.named_parameters();
    for (std::size_t i = 0; i < names.size(); ++i) CHECK(largest(names[i].second.grad() - pass * grads[i]) < 1e-12);
  }
}

TEST_CASE("the result of a dynamic rotary embedding does not depend on the batches before") {
  const Json json = Json::parse(R"({"model_type": "llama", "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48,
      "num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 8,
      "rope_scaling": {"type": "dynamic", "factor": 3.0}})");
  const Decoder decoder = case_decoder(parse_model_config(json, "test"), at::kFloat);
  const auto batch = [&](std::int64_t length) { return case_sequences({case_ids(0, length, 60)}, false); };
  const Tensor before = decoder.hidden(batch(10));
  decoder.hidden(batch(30));
  CHECK(at::equal(before, decoder.hidden(batch(10))));
}

TEST_CASE("parameters of another type than the computation") {
  const Json json = Json::parse(R"({"model_type": "qwen3", "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48,
      "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8})");
  const ModelSpec config = parse_model_config(json, "test");
  const Sequences batch = case_sequences({case_ids(0, 9, 60), case_ids(1, 4, 60)}, false);
  Decoder narrow = case_decoder(config, at::kBFloat16);
  narrow.compute = at::kFloat;
  Decoder wide = frozen_copy(narrow);
  visit_parameters(wide, [](const auto&, Tensor& tensor, const auto&) { tensor = tensor.to(at::kFloat); });
  CHECK(at::equal(narrow.hidden(batch), wide.hidden(batch)));
  narrow.compute = wide.compute = at::kBFloat16;
  CHECK(at::equal(narrow.hidden(batch), wide.hidden(batch)));
  wide.compute = at::kComplexFloat;
  CHECK_THROWS_WITH(wide.hidden(batch), KTO_CONTAINS("bfloat16"));
}

TEST_CASE("a frozen copy is deep and has no gradient") {
  const Json json = Json::parse(R"({"model_type": "llama", "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48,
      "num_hidden_layers": 1, "num_attention_heads": 4, "tie_word_embeddings": true})");
  const Decoder decoder = case_decoder(parse_model_config(json, "test"), at::kFloat);
  const Decoder copy = frozen_copy(decoder);
  const Sequences batch = case_sequences({case_ids(0, 9, 60)}, false);
  const Tensor before = decoder.hidden(batch).detach().clone();
  CHECK_FALSE(copy.hidden(batch).requires_grad());
  {
    const at::NoGradGuard no_grad;
    for (const auto& [name, parameter] : decoder.named_parameters()) parameter.mul_(1.5);
  }
  CHECK(at::equal(copy.hidden(batch), before));
  CHECK_FALSE(at::equal(decoder.hidden(batch), before));
}

}  // namespace
}  // namespace kto::test::test_decoder
