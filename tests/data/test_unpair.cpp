// SPDX-License-Identifier: Apache-2.0
// Pairs to rows: the shared prompt (golden cases from TRL's extract_prompt) and the order.
#include "catch.hpp"
#include "kto/data/rows.hpp"
#include "tests/data/temporary_folder.hpp"

using kto::Json;
using kto::Pair;
using kto_test::error_of;
using kto_test::TemporaryFolder;

namespace {

Pair pair_of(const std::string& chosen, const std::string& rejected) {
  Pair pair;
  pair.chosen = Json::parse(chosen);
  pair.rejected = Json::parse(rejected);
  return pair;
}

}  // namespace

TEST_CASE("unpair: the prompt that two texts share is TRL's", "[data]") {
  const Json cases = kto::read_json(KTO_SOURCE_DIR "/tests/golden/data/encode_cases.json")["extract"];
  REQUIRE(cases.size() >= 20);
  for (const Json& example : cases) {
    INFO(example.dump());
    Pair pair;
    pair.chosen = example["pair"][0];
    pair.rejected = example["pair"][1];
    kto::extract_prompt(pair);
    CHECK(pair.prompt == example["cut"][0]);
    CHECK(pair.chosen == example["cut"][1]);
    CHECK(pair.rejected == example["cut"][2]);
  }
}

TEST_CASE("unpair: messages that two conversations share, whatever the order of keys", "[data]") {
  auto pair =
      pair_of(R"([{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}])",
              R"([{"content":"a","role":"user","name":null},{"role":"assistant","content":"d"}])");
  kto::extract_prompt(pair);
  CHECK(pair.prompt == Json::parse(R"([{"role":"user","content":"a"}])"));
  CHECK(pair.chosen.size() == 2);
  CHECK(pair.rejected == Json::parse(R"([{"role":"assistant","content":"d"}])"));

  auto alike = pair_of(R"([{"role":"user","content":"a"},{"role":"assistant","content":"b"}])",
                       R"([{"role":"user","content":"a"},{"role":"assistant","content":"b"}])");
  kto::extract_prompt(alike);  // the last turn stays a completion
  CHECK(alike.prompt.size() == 1);
  CHECK(alike.chosen == alike.rejected);

  auto none = pair_of(R"([{"role":"user","content":"a"}])", R"([{"role":"user","content":"b"}])");
  CHECK_THAT(error_of([&] { kto::extract_prompt(none); }),
             KTO_CONTAINS("share no first message that could be the prompt"));
  auto empty = pair_of("\"\"", "\"b\"");
  CHECK_THAT(error_of([&] { kto::extract_prompt(empty); }), KTO_CONTAINS("one of them is empty"));
}

TEST_CASE("unpair: of each thousand pairs the chosen rows come first", "[data]") {
  const TemporaryFolder folder;
  std::string content;
  constexpr std::size_t n = 2003;
  for (std::size_t i = 1; i <= n; ++i) {
    const std::string id = std::to_string(i);
    content += R"({"prompt": "p)" + id + R"(", "chosen": "c)" + id + R"(", "rejected": "r)" + id + "\"}\n";
  }
  const auto set = kto::read_rows(folder.write("rows.jsonl", content));
  REQUIRE(set.rows.size() == 2 * n);
  CHECK(set.kind.format == kto::RowFormat::Paired);
  std::size_t at = 0;
  for (std::size_t begin = 1; begin <= n; begin += 1000)
    for (const bool label : {true, false})
      for (std::size_t i = begin; i < std::min<std::size_t>(begin + 1000, n + 1); ++i, ++at) {
        const auto& row = set.rows[at];
        const std::string id = std::to_string(i);
        if (row.label != label || row.prompt != "p" + id || row.completion != (label ? "c" : "r") + id ||
            row.source.number != i)
          FAIL("row " << at << " is " << row.completion << ", expected that of pair " << i);
      }
}

TEST_CASE("unpair: a text prompt beside conversations is a copy of their first turn", "[data]") {
  const TemporaryFolder folder;
  const auto set = kto::read_rows(folder.write(
      "rows.jsonl", R"({"prompt": "a", "chosen": [{"role":"user","content":"a"},{"role":"assistant","content":"b"}], )"
                    R"("rejected": [{"role":"user","content":"a"},{"role":"assistant","content":"c"}]})"));
  CHECK(set.kind == kto::RowKind{kto::RowFormat::ImplicitPrompt, true});
  REQUIRE(set.rows.size() == 2);
  CHECK(set.rows[0].prompt == Json::parse(R"([{"role":"user","content":"a"}])"));
  CHECK(set.rows[1].completion[0]["content"] == "c");
  CHECK(set.notes.size() == 1);
}
