// SPDX-License-Identifier: Apache-2.0
// Encoder-decoders against transformers (tests/golden/models/encoder_decoder), and their own paths against each other.
#include <algorithm>
#include <string>
#include <vector>

#include "catch.hpp"
#include "kto/collate/encoder_decoder.hpp"
#include "kto/generate/generate.hpp"
#include "kto/logprob/completion.hpp"
#include "tests/model/model_cases.hpp"

namespace kto::test::test_encoder_decoder {
namespace {

struct Case {
  std::string name;
  ModelSpec config;
  std::vector<Example> examples;
  Json expected;
};

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const auto& entry : fs::directory_iterator(fs::path(KTO_SOURCE_DIR) / "tests/golden/models/encoder_decoder")) {
    const Json json = read_json(entry.path());
    Case out{json["name"], parse_model_config(json["config"], entry.path().string()), {}, json["expected"]};
    for (const Json& lengths : json["lengths"]) {
      const std::size_t i = 2 * out.examples.size();
      out.examples.push_back({.prompt_ids = case_ids(i, lengths[0], out.config.vocab_size),
                              .completion_ids = case_ids(i + 1, lengths[1], out.config.vocab_size),
                              .label = i % 4 == 0});
    }
    cases.push_back(std::move(out));
  }
  return cases;
}

/// The examples, each with the next one's completion as its KL partner's.
std::vector<Pick> picks_of(const std::vector<Example>& examples) {
  std::vector<Pick> out;
  for (std::size_t i = 0; i < examples.size(); ++i) out.push_back({&examples[i], &examples[(i + 1) % examples.size()]});
  return out;
}

EncoderDecoderCollator collator_for(const ModelSpec& spec) {
  return {.start_token_id = spec.encoder.front().start_token_id};
}

std::vector<std::pair<std::string, Tensor>> trained(const Decoder& decoder) {
  auto out = decoder.named_parameters();
  std::erase_if(out, [](const auto& item) { return !item.second.requires_grad(); });
  return out;
}

std::vector<Tensor> trained_gradients(const Decoder& decoder, const Tensor& loss) {
  std::vector<Tensor> parameters;
  for (const auto& item : trained(decoder)) parameters.push_back(item.second);
  return torch::autograd::grad({loss}, parameters);
}

/// Compares all cases, computed on `device`, in float32 and if it is the CPU in float64.
void check_cases(at::Device device) {
  for (const Case& each : all_cases()) {
    INFO(each.name);
    const Sequences rows = to_device(collator_for(each.config)(picks_of(each.examples), false).rows, device);
    std::vector<double> expected;
    for (const Json& row : each.expected["logp"])
      for (const Json& value : row) expected.push_back(value);
    for (const auto dtype : {at::kDouble, at::kFloat}) {
      if (dtype == at::kDouble && !device.is_cpu()) continue;
      Decoder decoder = case_decoder(each.config, dtype, device);
      const auto run = [&] {
        const Tensor logp_C = case_logp(decoder, decoder.hidden(rows), rows);
        std::vector<Tensor> grads = trained_gradients(decoder, case_loss(logp_C));
        for (Tensor& grad : grads) grad = grad.cpu();
        return std::pair(logp_C.cpu(), grads);
      };
      const auto [logp_C, grads] = run();
      const double bound = dtype == at::kFloat ? 1e-5 : 1e-10;
      const Tensor want_C = at::tensor(at::ArrayRef<double>(expected), at::kDouble);
      CHECK(largest((logp_C.to(at::kDouble) - want_C) / (1 + want_C.abs())) < bound);
      const auto names = trained(decoder);
      REQUIRE(names.size() == each.expected["grads"].size());
      double most = 0;
      for (const Json& want : each.expected["grads"]) most = std::max(most, want[0].get<double>());
      for (std::size_t i = 0; i < names.size(); ++i) {
        INFO(names[i].first);
        const Json& want = each.expected["grads"].at(names[i].first);
        const Tensor grad = grads[i].to(at::kDouble);
        const double norm = std::max(want[0].get<double>(), 1e-2 * most);
        CHECK(std::abs(grad.norm().item<double>() - want[0].get<double>()) < 10 * bound * norm);
        const Tensor probe = noise_tensor("probe/" + names[i].first, grad.sizes());
        CHECK(std::abs((grad * probe).sum().item<double>() - want[1].get<double>()) < 10 * bound * norm);
      }
      decoder.recompute = true;
      const auto [again_C, grads_again] = run();
      CHECK(at::equal(logp_C, again_C));
      for (std::size_t i = 0; i < grads.size(); ++i)
        CHECK(largest(grads[i] - grads_again[i]) <= (dtype == at::kFloat ? 1e-5 : 1e-13) * (1 + largest(grads[i])));
    }
  }
}

TEST_CASE("encoder-decoders agree with transformers, with and without recomputation") { check_cases(at::kCPU); }
TEST_CASE("encoder-decoders agree with transformers on a device without kernels of its own", "[.][guarded]") {
  check_cases(at::Device("guarded:1"));
}

TEST_CASE("the KL pairs of an encoder-decoder find the prompts of the rows, and each prompt is encoded once") {
  for (const Case& each : all_cases()) {
    INFO(each.name);
    std::vector<Example> examples = each.examples;
    examples.push_back({.prompt_ids = examples[0].prompt_ids, .completion_ids = examples[1].completion_ids});
    const Decoder decoder = case_decoder(each.config, at::kDouble);
    Batch batch = collator_for(each.config)(picks_of(examples), true);
    CHECK(batch.rows.encoder.front().segments.size() == examples.size() - 1);
    const BatchScores shared = score_batch(decoder, batch, true);
    batch.shared.reset();
    const BatchScores separate = score_batch(decoder, batch, true);
    CHECK(largest(shared.rows.logp_B - separate.rows.logp_B) < 1e-12);
    CHECK(largest(shared.kl_logp_B - separate.kl_logp_B) < 1e-12);
    for (std::size_t b = 0; b < examples.size(); ++b) {  // the same as each row alone
      const std::vector<Pick> alone{{&examples[b], &examples[(b + 1) % examples.size()]}};
      const BatchScores one = score_batch(decoder, collator_for(each.config)(alone, true), true);
      const auto row = static_cast<std::int64_t>(b);
      CHECK(largest(one.rows.logp_B[0] - shared.rows.logp_B[row]) < 1e-12);
      CHECK(largest(one.kl_logp_B[0] - shared.kl_logp_B[row]) < 1e-12);
    }
  }
}

TEST_CASE("greedy replies of encoder-decoders are transformers'") {
  for (const Case& each : all_cases()) {
    INFO(each.name);
    const Decoder decoder = case_decoder(each.config, at::kFloat);
    const auto expected = each.expected["generated"].get<std::vector<std::int32_t>>();
    GenerationConfig config{.max_new_tokens = static_cast<std::int64_t>(expected.size())};
    CHECK(generate(decoder, each.examples[0].prompt_ids, config) == expected);
    config.forced_bos_token_id = 3;
    config.forced_eos_token_id = 4;
    const auto forced = generate(decoder, each.examples[0].prompt_ids, config);
    CHECK((forced.front() == 3 && forced.back() == 4 && forced.size() == expected.size()));
  }
}

TEST_CASE("configs of encoder-decoders that are not supported are refused by name") {
  const Json t5 = Json::parse(R"({"model_type": "t5", "vocab_size": 20, "d_model": 16, "d_kv": 4, "d_ff": 8,
      "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0})");
  const Json bart = Json::parse(R"({"model_type": "bart", "vocab_size": 20, "d_model": 16, "encoder_layers": 1,
      "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2})");
  const auto refusal = [](Json config, const char* key, const Json& value) -> std::string {
    config[key] = value;
    try {
      (void)parse_model_config(config, "case");
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  CHECK(refusal(t5, "d_ff", 12).empty());
  CHECK(refusal(bart, "encoder_ffn_dim", 12).empty());
  CHECK_THAT(refusal(t5, "decoder_start_token_id", nullptr), KTO_CONTAINS("\"decoder_start_token_id\" is missing"));
  CHECK_THAT(refusal(t5, "decoder_start_token_id", 20), KTO_CONTAINS("outside the vocabulary of 20"));
  CHECK_THAT(refusal(t5, "is_decoder", true), KTO_CONTAINS("\"is_decoder\": true"));
  CHECK_THAT(refusal(bart, "is_encoder_decoder", false), KTO_CONTAINS("\"is_encoder_decoder\": false"));
  CHECK_THAT(refusal(t5, "feed_forward_proj", "gated-tanhshrink"), KTO_CONTAINS("tanhshrink"));
  CHECK_THAT(refusal(t5, "relative_attention_num_buckets", 2), KTO_CONTAINS("leave no buckets"));
  CHECK_THAT(refusal(bart, "tie_word_embeddings", false), KTO_CONTAINS("three embeddings"));
  CHECK_THAT(refusal(bart, "decoder_layerdrop", 0.1), KTO_CONTAINS("decoder_layerdrop"));
}

TEST_CASE("an encoder-decoder says what its batches lack") {
  const Case each = all_cases().front();
  const Decoder decoder = case_decoder(each.config, at::kFloat);
  CHECK_THROWS_WITH(decoder.hidden(case_sequences({case_ids(0, 4, each.config.vocab_size)}, false)),
                    KTO_CONTAINS("EncoderDecoderCollator"));
  const Sequences rows = collator_for(each.config)(picks_of(each.examples), false).rows;
  const Json llama = Json::parse(R"({"model_type": "llama", "vocab_size": 80, "hidden_size": 16, "intermediate_size": 8,
      "num_hidden_layers": 1, "num_attention_heads": 2})");
  CHECK_THROWS_WITH(case_decoder(parse_model_config(llama, "case"), at::kFloat).hidden(rows),
                    KTO_CONTAINS("the model is a decoder"));
  const std::vector<Example> empty{{.prompt_ids = {}, .completion_ids = {1}}};
  CHECK_THROWS_WITH(collator_for(each.config)(picks_of(empty), false), KTO_CONTAINS("no prompt tokens"));
}

TEST_CASE("bfloat16 and float16 run through encoder-decoders and are near float32") {
  for (const Case& each : all_cases()) {
    INFO(each.name);
    const Sequences rows = collator_for(each.config)(picks_of(each.examples), false).rows;
    Decoder decoder = case_decoder(each.config, at::kFloat);
    const Tensor exact = case_logp(decoder, decoder.hidden(rows), rows);
    for (const auto& [type, bound] : {std::pair(at::kBFloat16, 0.2), std::pair(at::kHalf, 0.03)}) {
      decoder.compute = type;
      const Tensor logp_C = case_logp(decoder, decoder.hidden(rows), rows);
      CHECK((logp_C - exact).abs().mean().item<double>() < bound);
      CHECK(trained_gradients(decoder, logp_C.sum()).front().scalar_type() == at::kFloat);
    }
  }
}

}  // namespace
}  // namespace kto::test::test_encoder_decoder
