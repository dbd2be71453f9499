// SPDX-License-Identifier: Apache-2.0
// Which parameters weight decay skips: transformers' list, of models and of names (tests/golden/optim/make_decay.py).
#include <regex>
#include <set>

#include "catch.hpp"
#include "kto/optim/flat_parameters.hpp"
#include "tests/model/model_cases.hpp"

namespace kto::test::test_decay {
namespace {

Json golden() { return read_json(fs::path(KTO_SOURCE_DIR) / "tests/golden/optim/decay.json"); }

TEST_CASE("weight decay skips the parameters of every family that transformers skips") {
  const Json models = golden()["models"];
  const std::regex number("\\.[0-9]+\\.");
  REQUIRE(models.size() > 100);
  for (const auto& [name, skipped] : models.items()) {
    INFO(name);
    const std::string file = name + ".json";
    const Json config = read_json(fs::path(KTO_SOURCE_DIR) / "tests/golden/models" / file)["config"];
    const Decoder decoder =
        make_decoder(parse_model_config(config, file), [](const auto&, const auto& shape) { return at::zeros(shape); });
    std::set<std::string> ours;
    for (const auto& [parameter, tensor] : decoder.named_parameters())
      if (!takes_weight_decay(parameter)) ours.insert(std::regex_replace(parameter, number, ".*."));
    CHECK(ours == skipped.get<std::set<std::string>>());
  }
}

TEST_CASE("weight decay goes by parts of names as transformers' patterns do") {
  for (const auto& [name, decays] : golden()["names"].items()) {
    INFO(name);
    CHECK(takes_weight_decay(name) == decays.get<bool>());
  }
}

}  // namespace
}  // namespace kto::test::test_decay
