// SPDX-License-Identifier: Apache-2.0
// Special tokens of a model folder's configs against what KTOTrainer leaves
// (tests/golden/special_tokens/make_special_tokens.py).
#include "catch.hpp"
#include "kto/model/special_tokens.hpp"
#include "tests/data/temporary_folder.hpp"

namespace test_special_tokens {

using namespace kto;

TEST_CASE("special tokens: the configs name those of the tokenizer, as KTOTrainer leaves them") {
  const Json golden = read_json(fs::path(KTO_SOURCE_DIR) / "tests/golden/special_tokens/special_tokens.json");
  for (const Json& expected : golden["cases"]) {
    INFO(expected.dump());
    const Json &before = expected["before"], &after = expected["after"];
    const kto_test::TemporaryFolder folder;
    Json config = before["config"];
    config["model_type"] = expected["family"];
    folder.write("config.json", config.dump());
    if (!before["generation"].is_null()) folder.write("generation_config.json", before["generation"].dump());
    folder.write("tokenizer_config.json", expected["tokens"].dump());
    const auto named = [&](const char* name) -> std::optional<NamedToken> {
      if (!expected["tokens"].contains(name)) return std::nullopt;
      const auto text = expected["tokens"][name].get<std::string>();
      return NamedToken{text, golden["vocabulary"][text].get<std::int32_t>()};
    };
    NamedTokens tokens{.bos = named("bos_token"), .eos = named("eos_token"), .pad = named("pad_token")};
    tokens.pad_is_eos = !tokens.pad;
    if (tokens.pad_is_eos) tokens.pad = tokens.eos;
    const TokenConfigs now = aligned_configs(folder.path(), tokens);
    for (const auto& [key, id] : after["config"].items())
      CHECK((now.config.contains(key) ? now.config[key] : Json()) == id);
    Json generation = now.generation;  // null is as no such key
    for (const char* key : {"eos_token_id", "bos_token_id", "pad_token_id"})
      if (generation.contains(key) && generation[key].is_null()) generation.erase(key);
    CHECK(nlohmann::json(generation) == nlohmann::json(after["generation"]));
    CHECK(now.tokenizer_config["pad_token"] == after["pad_token"]);
    CHECK(aligned_configs(folder.path(), {}).config == config);  // nothing is known of a tokenizer
  }
}

TEST_CASE("special tokens: changes are reported; for an adapter, only those of its tokenizer") {
  const kto_test::TemporaryFolder folder;
  folder.write("config.json", R"({"model_type": "llama", "eos_token_id": 1, "bos_token_id": 5, "pad_token_id": null})");
  const NamedTokens tokens{.bos = {}, .eos = NamedToken{"<e>", 2}, .pad = NamedToken{"<e>", 2}, .pad_is_eos = true};
  CHECK(
      alignment_note(folder.path(), tokens, false) ==
      "saved with the special tokens of the tokenizer: config.json eos_token_id 2 (was 1), pad_token_id 2 (was null); "
      "generation_config.json eos_token_id [2,1] (was 1), pad_token_id 2 (was null); tokenizer_config.json pad_token "
      "\"<e>\" (was null)");
  CHECK(alignment_note(folder.path(), tokens, true) ==
        "saved with the special tokens of the tokenizer: tokenizer_config.json pad_token \"<e>\" (was null)");
  CHECK(alignment_note(folder.path(), {}, false).empty());
  folder.write("generation_config.json", "[]");
  CHECK_THROWS_WITH(aligned_configs(folder.path(), tokens), KTO_CONTAINS("generation_config.json: expected an object"));
}

}  // namespace test_special_tokens
