// SPDX-License-Identifier: Apache-2.0
#include <filesystem>

#include "catch.hpp"
#include "kto/data/processor.hpp"
#include "kto/generate/sample_replies.hpp"
#include "kto/model/adapter.hpp"
#include "model/model_cases.hpp"

namespace test_generate {

using kto::Tensor;

namespace {

/// The states of all tokens in pieces of the given sizes, through a cache.
Tensor in_pieces(const kto::Decoder& decoder, const std::vector<std::int32_t>& ids, std::vector<std::size_t> sizes) {
  kto::KvCache cache;
  std::vector<Tensor> out;
  std::size_t begin = 0;
  for (const std::size_t size : sizes) {
    out.push_back(kto::cached_hidden(decoder, cache, std::span(ids).subspan(begin, size)));
    begin += size;
  }
  return at::cat(out);
}

double distance(const Tensor& a, const Tensor& b) { return (a - b).abs().max().item<double>(); }

}  // namespace

TEST_CASE("with a cache, every family's states are those of the whole text") {
  int count = 0;
  for (const auto& file : std::filesystem::directory_iterator(std::string(KTO_SOURCE_DIR) + "/tests/golden/models")) {
    const std::string name = file.path().stem().string();
    if (file.path().extension() != ".json" || name.starts_with("rope_dynamic") || name.starts_with("rope_longrope"))
      continue;  // their keys depend on the length at which they were made, as in transformers
    INFO(name);
    const kto::Json golden = kto::read_json(file.path());
    auto decoder = kto::test::case_decoder(kto::parse_model_config(golden["config"], name), at::kDouble);
    const auto ids = kto::test::case_ids(0, 12, decoder.spec.vocab_size);
    const auto compare = [&] {
      const at::NoGradGuard no_grad;
      const Tensor whole = decoder.hidden(kto::test::case_sequences({ids}, false));
      CHECK(distance(whole, in_pieces(decoder, ids, {12})) < 1e-9);
      CHECK(distance(whole, in_pieces(decoder, ids, {5, 1, 1, 4, 1})) < 1e-9);
    };
    compare();
    const kto::Decoder base = decoder;
    const auto last_part = [](const std::string& path) { return path.substr(path.rfind('.') + 1); };
    const auto& attention = base.spec.names.layer.attention;
    const kto::AttentionSpec& form = base.spec.layers[0].attention;
    const std::string projection = form.latent                           ? attention.latent.kv_b
                                   : kto::has_separate_projections(form) ? attention.q
                                                                         : attention.qkv;
    const std::string queries = last_part(projection), embedding = last_part(base.spec.names.embedding);
    for (const kto::LoraConfig& config :
         {kto::LoraConfig{.r = 2, .target_pattern = "all-linear", .use_dora = true},
          kto::LoraConfig{.r = 2, .target_modules = {queries, embedding}, .use_dora = true},
          kto::LoraConfig{.r = 2,
                          .target_modules = {queries},
                          .trainable_token_indices = {{embedding, {0, 1, 2, 3, 4, 5, 6, 7}}}}}) {
      decoder = kto::with_adapter(base, config).policy;
      const at::NoGradGuard no_grad;
      kto::visit_loras(decoder, [](const std::string& tensor_name, Tensor& tensor) {
        tensor.add_(0.1 * kto::test::noise_tensor(tensor_name, tensor.sizes()));
      });
      compare();
    }
    ++count;
  }
  CHECK(count > 20);
}

TEST_CASE("a conversation's turns share what the cache holds of them") {
  const std::string name = GENERATE("llama_plain", "lfm2_plain", "qwen3_5_plain");
  const kto::Json golden = kto::read_json(std::string(KTO_SOURCE_DIR) + "/tests/golden/models/" + name + ".json");
  const auto decoder = kto::test::case_decoder(kto::parse_model_config(golden["config"], name), at::kDouble);
  const auto ids = kto::test::case_ids(0, 9, decoder.spec.vocab_size);
  auto other = ids;
  other[6] = (other[6] + 1) % static_cast<std::int32_t>(decoder.spec.vocab_size);
  kto::KvCache cache;
  auto generator = at::make_generator<at::CPUGeneratorImpl>(1);
  const kto::GenerationConfig greedy{.max_new_tokens = 6};
  for (const auto& prompt : {ids, other, ids, std::vector<std::int32_t>(ids.begin(), ids.begin() + 3)})
    CHECK(kto::generate(decoder, cache, prompt, greedy, generator) == kto::generate(decoder, prompt, greedy));
  CHECK_THROWS_WITH(kto::generate(decoder, std::vector<std::int32_t>{100000}), KTO_CONTAINS("100000"));
}

TEST_CASE("drawing keeps to top_k, top_p and the distribution") {
  const Tensor logits = at::tensor({0.5, 0.25, 0.15, 0.1}, at::kFloat).log();
  auto generator = at::make_generator<at::CPUGeneratorImpl>(1);
  const auto shares = [&](const kto::GenerationConfig& config) {
    std::vector<double> out(4, 0);
    for (int i = 0; i < 4000; ++i)
      out[static_cast<std::size_t>(kto::next_token(logits, {}, config, generator))] += 1.0 / 4000;
    return out;
  };
  const auto near = [](const std::vector<double>& got, const std::vector<double>& want) {
    for (std::size_t i = 0; i < 4; ++i) CHECK(std::abs(got[i] - want[i]) < (want[i] == 0 ? 1e-9 : 0.04));
  };
  near(shares({.temperature = 1}), {0.5, 0.25, 0.15, 0.1});
  near(shares({.temperature = 1, .top_k = 2}), {2 / 3.0, 1 / 3.0, 0, 0});
  near(shares({.temperature = 1, .top_p = 0.75}), {2 / 3.0, 1 / 3.0, 0, 0});
  near(shares({.temperature = 1, .top_p = 0.76}), {0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0});
  near(shares({.temperature = 0}), {1, 0, 0, 0});
  const std::vector<std::int32_t> seen{0};
  CHECK(kto::next_token(at::tensor({2.0, 1.5}, at::kFloat), seen, {.repetition_penalty = 2}, generator) == 1);
}

TEST_CASE("samples for the log: texts of prompts, of the policy's replies and of the reference's") {
  const kto::Processor processor(std::string(KTO_SOURCE_DIR) + "/tests/golden/data/model");
  const auto& tokenizer = processor.tokenizer();
  const kto::Json golden = kto::read_json(std::string(KTO_SOURCE_DIR) + "/tests/golden/models/llama_plain.json");
  kto::Json config = golden["config"];
  config["vocab_size"] = tokenizer.id_end();
  const auto decoder = [&] { return kto::test::case_decoder(kto::parse_model_config(config, "llama"), at::kFloat); };
  const kto::Decoder policy = decoder(), reference = decoder();
  {
    const at::NoGradGuard no_grad;
    reference.norm.weight_D.neg_();
  }
  const auto one = tokenizer.encode("alpha beta", false), other = tokenizer.encode("gamma", false);
  const std::vector<kto::Example> rows{{one, {}}, {one, {}}, {}, {other, {}}};
  const auto prompts = kto::first_prompts(rows, 5);
  REQUIRE(prompts == std::vector{one, other});
  CHECK(kto::first_prompts(rows, 1).size() == 1);
  for (const double temperature : {0.0, 2.0}) {
    const kto::GenerationConfig how{.max_new_tokens = 7, .temperature = temperature, .seed = 5};
    const kto::Json samples = kto::sample_replies(policy, &reference, tokenizer, prompts, how);
    REQUIRE(samples.size() == 2);
    CHECK(samples == kto::sample_replies(policy, &reference, tokenizer, prompts, how));
    CHECK(samples[1]["prompt"] == "gamma");
    CHECK(samples[0]["policy"] == tokenizer.decode(kto::generate(policy, one, how), true));
    CHECK(samples[0]["reference"] == tokenizer.decode(kto::generate(reference, one, how), true));
    CHECK(samples[0]["policy"] != samples[0]["reference"]);
    CHECK_FALSE(kto::sample_replies(policy, nullptr, tokenizer, prompts, how)[0].contains("reference"));
  }
}

}  // namespace test_generate
