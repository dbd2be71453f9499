// SPDX-License-Identifier: Apache-2.0
// Batches that hold what prompts share once against the same with every (prompt, completion) whole: scores of rows and KL
// pairs, statistics and gradients.
#include <ATen/ops/allclose.h>
#include <ATen/ops/randn.h>

#include "catch.hpp"
#include "kto/collate/packed.hpp"
#include "kto/logprob/completion.hpp"
#include "kto/logprob/log_probs.hpp"
#include "kto/model/module.hpp"
#include "model/model_cases.hpp"

namespace kto::test::test_shared_prompt {
namespace {

Example example(std::size_t prompt, std::int64_t prompt_length, std::size_t completion, std::int64_t length) {
  return {.prompt_ids = case_ids(prompt, prompt_length, 60), .completion_ids = case_ids(completion, length, 60)};
}

void check_batch(const Decoder& decoder, const std::vector<Example>& examples, const std::vector<std::size_t>& partners,
                 std::int64_t max_length) {
  std::vector<Pick> picks;
  for (std::size_t i = 0; i < examples.size(); ++i) picks.push_back({&examples[i], &examples[partners[i]]});
  const auto score = [&](bool share) {
    const Batch batch = PackedCollator{.max_length = max_length, .share_prompt = share}(picks, true);
    REQUIRE(batch.shared.has_value() == share);
    if (share) CHECK(batch.shared->rows.num_tokens == batch.rows.num_tokens);
    return score_batch(decoder, batch, /*with_kl=*/true, /*statistics=*/true);
  };
  const BatchScores shared = score(true), whole = score(false);
  CHECK(at::allclose(shared.rows.logp_B, whole.rows.logp_B, 0, 1e-10));
  CHECK(at::allclose(shared.rows.entropy_B, whole.rows.entropy_B, 0, 1e-10));
  CHECK(at::equal(shared.rows.num_scored_B, whole.rows.num_scored_B));
  CHECK(at::allclose(shared.kl_logp_B, whole.kl_logp_B, 0, 1e-10));
  CHECK(!shared.kl_logp_B.requires_grad());
  const Tensor weight_B = at::arange(1, static_cast<double>(examples.size()) + 1, at::kDouble);
  std::vector<Tensor> parameters;
  for (const auto& [name, parameter] : decoder.named_parameters()) parameters.push_back(parameter);
  const auto gradients = [&](const BatchScores& scores) {
    return torch::autograd::grad({(scores.rows.logp_B * weight_B).sum()}, parameters);
  };
  const auto got = gradients(shared), expected = gradients(whole);
  for (std::size_t i = 0; i < got.size(); ++i) CHECK(at::allclose(got[i], expected[i], 0, 1e-9));
}

/// Token ids `parts`, one after another.
std::vector<std::int32_t> joined_ids(const std::vector<std::vector<std::int32_t>>& parts) {
  std::vector<std::int32_t> out;
  for (const auto& part : parts) out.insert(out.end(), part.begin(), part.end());
  return out;
}

/// A decoder with two layers, the first with `mixer`.
Decoder two_layers(const char* family, const char* mixer) {
  Json json = Json::parse(R"({"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
      "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": true, "head_dim": 8,
      "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 12, "linear_value_head_dim": 8})");
  json["model_type"] = family;
  json["layer_types"] = {mixer, "full_attention"};
  return case_decoder(parse_model_config(json, "test"), at::kDouble);
}

TEST_CASE("a batch with each prompt once scores as one with every row whole", "[shared_prompt]") {
  const auto [family, mixer] = GENERATE(table<const char*, const char*>(
      {{"qwen2", "full_attention"}, {"lfm2", "conv"}, {"qwen3_5_text", "linear_attention"}}));
  Decoder decoder = two_layers(family, mixer);
  // Rows 0, 2 and 3 have one prompt; row 4 has none, row 5 one of a single token.
  const std::vector<Example> examples{example(0, 9, 10, 5), example(1, 4, 11, 7), example(0, 9, 12, 1),
                                      example(0, 9, 13, 8), example(2, 0, 14, 6), example(3, 1, 15, 30)};
  for (const bool recompute : {false, true}) {
    decoder.recompute = recompute;
    for (const std::int64_t max_length : {1000, 14, 11}) {
      CAPTURE(family, recompute, max_length);
      check_batch(decoder, examples, {1, 2, 3, 4, 5, 0}, max_length);
      check_batch(decoder, {examples[1]}, {0}, max_length);
    }
  }
}

TEST_CASE("a batch with what prompts begin with once scores as one with every row whole", "[shared_prompt]") {
  const auto [family, mixer] = GENERATE(table<const char*, const char*>(
      {{"qwen2", "full_attention"}, {"lfm2", "conv"}, {"qwen3_5_text", "linear_attention"}}));
  Decoder decoder = two_layers(family, mixer);
  const auto system = case_ids(0, 70, 60), question = case_ids(1, 5, 60), other = case_ids(2, 3, 60);
  const auto row = [](const std::vector<std::vector<std::int32_t>>& prompt, std::size_t completion,
                      std::int64_t length) {
    return Example{.prompt_ids = joined_ids(prompt), .completion_ids = case_ids(completion, length, 60)};
  };
  // Row 1 goes on after the whole prompt of row 0, and row 3 has another beginning; rows 4 and 5 have one prompt.
  const std::vector<Example> examples{row({system}, 10, 5),         row({system, question}, 11, 7),
                                      row({system, other}, 12, 1),  row({other, question}, 13, 8),
                                      row({system, other}, 14, 66), row({system, other}, 15, 4)};
  for (const bool recompute : {false, true}) {
    decoder.recompute = recompute;
    for (const std::int64_t max_length : {1000, 74, 60}) {
      CAPTURE(family, recompute, max_length);
      check_batch(decoder, examples, {1, 2, 3, 4, 5, 0}, max_length);
      check_batch(decoder, {examples[1], examples[2]}, {1, 0}, max_length);
    }
  }
  std::vector<Pick> picks;
  for (const Example& example : examples) picks.push_back({&example, &example});
  const Batch batch = PackedCollator{}(picks, false);
  CHECK(batch.rows.ids_N.size(0) - batch.shared->rows.ids_N.size(0) == 4 * 70);
}

TEST_CASE("log_probs of rows in one call are the sums over the completions, for decoders and for functions") {
  const std::vector<Example> examples{example(0, 4, 10, 5), example(1, 0, 11, 7), example(0, 4, 12, 1),
                                      example(2, 6, 13, 3), example(3, 2, 14, 0)};
  const auto by_hand = [&](const auto& logits_of) {  // one row at a time, through the full softmax
    const Tensor out_B = at::zeros({std::ssize(examples)}, at::kDouble);
    for (std::int64_t b = 0; b < out_B.size(0); ++b) {
      const Example& row = examples[static_cast<std::size_t>(b)];
      std::vector<std::int64_t> ids(row.prompt_ids.begin(), row.prompt_ids.end());
      ids.insert(ids.end(), row.completion_ids.begin(), row.completion_ids.end());
      const Tensor ids_T = at::tensor(ids, at::kLong), logp_TV = logits_of(ids_T).log_softmax(-1);
      for (std::size_t t = std::max<std::size_t>(row.prompt_ids.size(), 1); t < ids.size(); ++t)
        out_B[b] += logp_TV[static_cast<std::int64_t>(t) - 1][ids[t]];
    }
    return out_B;
  };
  const at::NoGradGuard no_grad;
  const Tensor table_VV = at::randn({60, 60}, at::kDouble);
  const FunctionModel bigram{NamedTensors{{"table", table_VV}},
                             [](const NamedTensors& parameters, const Tensor& ids_BT, const Tensor&) {
                               return at::embedding(parameters[0].second, ids_BT);
                             }};
  const Tensor expected_B = by_hand([&](const Tensor& ids_T) { return at::embedding(table_VV, ids_T); });
  for (const std::size_t rows_per_batch : {1, 2, 8})
    CHECK(at::allclose(log_probs(bigram, examples, PaddedCollator{}, rows_per_batch), expected_B, 0, 1e-12));
  CHECK(at::allclose(log_probs(bigram, examples), expected_B, 0, 1e-12));

  const Json json = Json::parse(R"({"model_type": "qwen2", "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48,
      "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": true})");
  const Decoder decoder = case_decoder(parse_model_config(json, "test"), at::kDouble);
  const Tensor logp_B = log_probs(decoder, examples);
  CHECK(logp_B.scalar_type() == at::kDouble);
  CHECK_FALSE(logp_B.requires_grad());
  CHECK(at::allclose(
      logp_B, by_hand([&](const Tensor& ids_T) {
        const std::vector<Example> row{
            {.prompt_ids = {},
             .completion_ids = {ids_T.data_ptr<std::int64_t>(), ids_T.data_ptr<std::int64_t>() + ids_T.numel()}}};
        const std::vector<Pick> picks{{row.data()}};
        return head_logits(decoder.hidden(PackedCollator{}(picks, false).rows), decoder.head());
      }),
      0, 1e-10));
  CHECK(log_probs(decoder, {}).numel() == 0);
  CHECK(at::allclose(log_probs(decoder, examples, PackedCollator{.max_length = 6}).narrow(0, 2, 1),
                     logp_B.narrow(0, 2, 1), 0, 1e-10));
  CHECK_THROWS_WITH(log_probs(decoder, std::vector<Example>{{.prompt_ids = {1}, .completion_ids = {60}}}),
                    KTO_CONTAINS("token id 60"));
}

TEST_CASE("frequencies that depend on the longest sequence are those of each pass", "[shared_prompt]") {
  const std::vector<Example> examples{example(0, 9, 10, 5), example(1, 4, 11, 7), example(3, 1, 15, 30)};
  const std::vector<std::size_t> partners{1, 2, 0};  // 31 tokens at most in the rows, 34 in the KL pairs
  for (const char* rope : {R"({"rope_type": "dynamic", "factor": 2.0})",
                           R"({"rope_type": "longrope", "original_max_position_embeddings": 32, "factor": 2.0,
                               "short_factor": [1, 1.5, 2, 3], "long_factor": [2, 4, 5, 9]})"}) {
    Json json = Json::parse(R"({"model_type": "qwen2", "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": true,
        "max_position_embeddings": 32})");
    json["rope_scaling"] = Json::parse(rope);
    const Decoder decoder = case_decoder(parse_model_config(json, "test"), at::kDouble);
    for (const std::int64_t max_length : {1000, 32, 20}) {
      CAPTURE(rope, max_length);
      check_batch(decoder, examples, partners, max_length);
      std::vector<Pick> picks;
      for (std::size_t i = 0; i < examples.size(); ++i) picks.push_back({&examples[i], &examples[partners[i]]});
      const Batch batch = PackedCollator{.max_length = max_length, .share_prompt = true}(picks, true);
      CHECK(decoder.has_steady_prefix(*batch.shared) == (max_length != 1000));
    }
  }
}

TEST_CASE("KL pairs whose prompts leave their completions no room score zero", "[shared_prompt]") {
  const Decoder decoder =
      case_decoder(parse_model_config(Json::parse(R"({"model_type": "llama", "vocab_size": 60, "hidden_size": 32,
          "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4})"),
                                      "test"),
                   at::kDouble);
  const std::vector<Example> examples{example(0, 9, 10, 5), example(1, 4, 11, 7)};
  const Pick picks[] = {{&examples[0], &examples[1]}, {&examples[1], &examples[0]}};
  const Batch batch = PackedCollator{.max_length = 4, .share_prompt = true}(picks, true);
  const at::NoGradGuard no_grad;
  CHECK(at::equal(score_batch(decoder, batch, true).kl_logp_B, at::zeros({2}, at::kDouble)));
}

}  // namespace
}  // namespace kto::test::test_shared_prompt
