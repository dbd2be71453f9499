// SPDX-License-Identifier: Apache-2.0
// Inverse frequencies against transformers' for the settings of well-known models; the types in use inside a decoder
// are covered by test_decoder.cpp.
#include "catch.hpp"
#include "kto/model/config.hpp"
#include "kto/nn/rotate.hpp"

namespace kto::test::test_rope {
namespace {

TEST_CASE("inverse frequencies are transformers' to the last bits") {
  const Json cases = read_json(fs::path(KTO_SOURCE_DIR) / "tests/golden/models/rope/frequencies.json");
  for (const Json& each : cases) {
    INFO(each["config"].dump() << " at length " << each["length"]);
    const ModelSpec config = parse_model_config(each["config"], "case");
    const Tensor length = at::scalar_tensor(each["length"].get<std::int64_t>(), at::kLong);
    const Tensor got = inverse_frequencies(config.ropes[0], length).to(at::kDouble);
    const Tensor want = at::tensor(at::ArrayRef<double>(each["frequencies"].get<std::vector<double>>()), at::kDouble);
    REQUIRE(got.sizes() == want.sizes());
    CHECK(((got - want) / want).abs().max().item<double>() <= 1.2e-7);
    CHECK(config.ropes[0].attention_scaling == each["scaling"].get<double>());
  }
}

TEST_CASE("yarn truncates unless it is told not to, and null tells it so, as in Python") {
  const auto truncates = [](const char* more) {
    const std::string rope = std::string(R"({"rope_type": "yarn", "factor": 4.0)") + more + "}";
    Json json = Json::parse(R"({"model_type": "llama", "vocab_size": 9, "hidden_size": 16, "intermediate_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 2})");
    json["rope_scaling"] = Json::parse(rope);
    return parse_model_config(json, "case").ropes[0].yarn.truncate;
  };
  CHECK(truncates(""));
  CHECK(truncates(R"(, "truncate": true)"));
  CHECK_FALSE(truncates(R"(, "truncate": false)"));
  CHECK_FALSE(truncates(R"(, "truncate": null)"));
}

TEST_CASE("rotation keeps the pairs (i, i + d / 2) together") {
  const RopeTables tables = rope_tables(RopeConfig{.dim = 4}, at::tensor({0, 3}, at::kLong));
  const Tensor x = at::tensor({1.0, 2.0, 3.0, 4.0}).expand({2, 1, 4});
  const Tensor y = apply_rope(x, tables, at::kFloat);
  CHECK(at::equal(y[0], x[0]));
  CHECK(y[1][0][0].item<double>() == Approx(1 * std::cos(3.0) - 3 * std::sin(3.0)));
  CHECK(y[1][0][2].item<double>() == Approx(3 * std::cos(3.0) + 1 * std::sin(3.0)));
  CHECK(y[1][0][1].item<double>() == Approx(2 * std::cos(0.03) - 4 * std::sin(0.03)));
}

}  // namespace
}  // namespace kto::test::test_rope
