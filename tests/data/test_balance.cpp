// SPDX-License-Identifier: Apache-2.0
// Weight advice: golden ranges from TRL.
#include "catch.hpp"
#include "kto/data/balance.hpp"
#include "kto/io/json.hpp"

namespace test_balance {

using kto::Json;

TEST_CASE("balance: ranges and verdict are TRL's", "[data]") {
  const Json cases = kto::read_json(KTO_SOURCE_DIR "/tests/golden/data/encode_cases.json")["balance"];
  REQUIRE(cases.size() >= 10);
  for (const Json& example : cases) {
    INFO(example.dump());
    std::vector<kto::Example> rows;
    for (const bool label : {true, false})
      rows.resize(rows.size() + example["num"][label ? 0 : 1].get<std::size_t>(),
                  {.prompt_ids = {1}, .completion_ids = {2}, .label = label});
    const auto balance = kto::weight_balance(rows, example["weights"][0], example["weights"][1]);
    CHECK(balance.num_desirable == example["num"][0].get<std::size_t>());
    CHECK(balance.num_undesirable == example["num"][1].get<std::size_t>());
    CHECK(balance.in_range == example["ranges"].is_null());
    if (balance.in_range) continue;
    CHECK(Json{balance.desirable.low, balance.desirable.high} == example["ranges"][0]);
    CHECK(Json{balance.undesirable.low, balance.undesirable.high} == example["ranges"][1]);
    CHECK(balance.advice().has_value() == (balance.num_desirable > 0 && balance.num_undesirable > 0));
  }
}

TEST_CASE("balance: the advice names counts and both ranges", "[data]") {
  const std::vector<kto::Example> rows{{{1}, {2}, true}, {{1}, {2}, true}, {{1}, {2}, true}, {{1}, {2}, false}};
  CHECK(kto::weight_balance(rows, 1, 1).advice() ==
        "the data has 3 desirable and 1 undesirable rows, and the weights do not compensate: set either "
        "desirable_weight in [0.33, 0.44] or undesirable_weight in [2.26, 3], not both");
  CHECK_FALSE(kto::weight_balance(rows, 0.4, 1).advice());
}

}  // namespace test_balance
