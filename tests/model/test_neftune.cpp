// SPDX-License-Identifier: Apache-2.0
// NEFTune: noise on embeddings in training, and nowhere else.
#include <ATen/ops/allclose.h>

#include "catch.hpp"
#include "kto/collate/packed.hpp"
#include "kto/logprob/completion.hpp"
#include "tests/model/model_cases.hpp"

namespace kto::test::test_neftune {
namespace {

Decoder small_decoder() {
  const Json config = read_json(fs::path(KTO_SOURCE_DIR) / "tests/golden/models/llama_plain.json")["config"];
  return case_decoder(parse_model_config(config, "llama_plain.json"), at::kFloat);
}

TEST_CASE("NEFTune adds bounded noise when gradients are computed") {
  Decoder decoder = small_decoder();
  const auto vocab = decoder.spec.vocab_size;
  const Sequences sequences = case_sequences({case_ids(0, 9, vocab), case_ids(1, 4, vocab)}, false);
  const Tensor plain_ND = decoder.hidden(sequences).detach();
  decoder.neftune_noise_alpha = 5;
  {
    const at::NoGradGuard no_grad;
    CHECK(at::equal(decoder.hidden(sequences), plain_ND));
  }
  at::manual_seed(1);
  const Tensor noisy_ND = decoder.hidden(sequences).detach();
  CHECK_FALSE(at::allclose(noisy_ND, plain_ND));
  at::manual_seed(1);
  CHECK(at::equal(decoder.hidden(sequences), noisy_ND));
  CHECK_FALSE(at::equal(decoder.hidden(sequences), noisy_ND));

  const Tensor noise_ND = embedding_noise(decoder, sequences);
  const auto width = static_cast<double>(decoder.spec.hidden_size);
  for (const Segment& segment : sequences.segments) {
    const double most = 5 / std::sqrt(static_cast<double>(segment.length) * width);
    const double seen = noise_ND.narrow(0, segment.begin, segment.length).abs().max().item<double>();
    CHECK(seen <= most * (1 + 1e-6));
    CHECK(seen > most / 2);
  }
}

TEST_CASE("NEFTune and recomputed activations give the same gradient under one seed") {
  Decoder decoder = small_decoder();
  decoder.neftune_noise_alpha = 5;
  const Sequences sequences = case_sequences({case_ids(0, 9, decoder.spec.vocab_size)}, false);
  const auto run = [&](bool recompute) {
    decoder.recompute = recompute;
    at::manual_seed(3);
    return gradients(decoder, case_loss(case_logp(decoder, decoder.hidden(sequences), sequences)));
  };
  const auto kept = run(false), recomputed = run(true);
  for (std::size_t i = 0; i < kept.size(); ++i) CHECK(at::allclose(kept[i], recomputed[i], 1e-5, 1e-7));
}

TEST_CASE("NEFTune: rows with a common prompt are not merged, and each has its own noise") {
  Decoder decoder = small_decoder();
  const auto vocab = decoder.spec.vocab_size;
  std::vector<Example> rows;
  for (const std::size_t i : {1, 2, 3})
    rows.push_back({.prompt_ids = case_ids(0, 7, vocab), .completion_ids = case_ids(i, 4, vocab), .row = i});
  const std::vector<Pick> picks{{&rows[0], &rows[1]}, {&rows[1], &rows[2]}, {&rows[2], &rows[0]}};
  const Batch shared = PackedCollator{}(picks, true), whole = PackedCollator{.share_prompt = false}(picks, true);
  REQUIRE(shared.shared->rows.ids_N.size(0) < whole.rows.ids_N.size(0));
  const auto score = [&](const Batch& batch) {
    at::manual_seed(4);
    return score_batch(decoder, batch, true);
  };
  const auto plain = score(shared);
  decoder.neftune_noise_alpha = 5;
  const auto merged = score(shared), apart = score(whole);
  CHECK(at::equal(merged.rows.logp_B, apart.rows.logp_B));
  CHECK_FALSE(at::allclose(merged.rows.logp_B, plain.rows.logp_B));
  CHECK(at::allclose(merged.kl_logp_B, plain.kl_logp_B, 1e-5, 1e-5));  // the baseline has no gradient, and no noise
  // Equal rows in one batch differ by their noise.
  const std::vector<Pick> twins{{&rows[0], &rows[1]}, {&rows[0], &rows[1]}};
  const Tensor logp_B = score(PackedCollator{}(twins, false)).rows.logp_B;
  CHECK(logp_B[0].item<double>() != logp_B[1].item<double>());
}

}  // namespace
}  // namespace kto::test::test_neftune
