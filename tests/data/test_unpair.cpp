// SPDX-License-Identifier: Apache-2.0
// Pairs to rows: the shared prompt (golden cases from TRL's extract_prompt) and the order.
#include "catch.hpp"
#include "kto/data/pairs.hpp"
#include "kto/data/rows.hpp"
#include "tests/data/temporary_folder.hpp"

namespace test_unpair {

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

TEST_CASE("pair_up: chosen and rejected side by side, with the prompt that their tokens share", "[data]") {
  using kto::Example;
  const auto row = [](std::vector<std::int32_t> prompt, std::vector<std::int32_t> completion, bool label,
                      std::size_t n) {
    return Example{.prompt_ids = prompt, .completion_ids = completion, .label = label, .row = n};
  };
  // Of pair 2 the chosen row's last prompt token has grown together with its completion; row 3 has no partner.
  const auto pairs = kto::pair_up({row({1, 2}, {3}, true, 1), row({1, 2}, {9, 8}, true, 2), row({5}, {6}, true, 3),
                                   row({1, 2}, {4}, false, 1), row({1, 2, 7}, {5}, false, 2)});
  REQUIRE(pairs.size() == 4);
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(pairs[i].label == (i % 2 == 0));
    CHECK(pairs[i].row == 1 + i / 2);
    CHECK(pairs[i].prompt_ids == std::vector<std::int32_t>{1, 2});
  }
  CHECK(pairs[2].completion_ids == std::vector<std::int32_t>{9, 8});
  CHECK(pairs[3].completion_ids == std::vector<std::int32_t>{7, 5});
  CHECK_THAT(error_of([&] { kto::pair_up({row({1}, {2}, true, 1), row({1}, {2}, true, 2)}); }),
             KTO_CONTAINS("no row has both"));
  CHECK_THAT(error_of([&] { kto::pair_up({row({1}, {2}, false, 4), row({1}, {2}, false, 4)}); }),
             KTO_CONTAINS("row 4 has two rejected completions"));
}

TEST_CASE("where pairs are wanted, a row with a label is refused at once, with its place", "[data]") {
  const TemporaryFolder folder;
  const std::string pair = R"({"prompt": "p", "chosen": "c", "rejected": "r"})"
                           "\n";
  const auto read = [&](const std::string& content) {
    kto::RowFiles part{.files = {folder.write("rows.jsonl", content)}};
    part.pairs_for = "the loss dpo";
    return kto::read_rows({part}, "rows").rows.size();
  };
  CHECK(read("\n" + pair + pair) == 4);
  CHECK(read(R"({"chosen": "same a", "rejected": "same b"})") == 2);
  CHECK_THAT(error_of([&] {
               read(
                   "\n"
                   R"({"prompt": "p", "completion": "c", "label": true})"
                   "\n" +
                   pair);
             }),
             KTO_CONTAINS("rows.jsonl: line 2: the loss dpo compares pairs: expected plain text rows (prompt, chosen, "
                          "rejected), and this row is one of plain text rows (prompt, completion, label)"));
  CHECK_THAT(
      error_of([&] { read(R"({"completion_input_ids": [1, 2], "completion_labels": [-100, 2], "label": true})"); }),
      KTO_CONTAINS("the loss dpo compares pairs"));
}

TEST_CASE("visit_unpaired: a chunk of 1 keeps pairs together", "[data]") {
  const std::vector<int> units{1, 2, 3};
  std::vector<std::pair<int, bool>> seen;
  kto::visit_unpaired(units, [&](int unit, bool chosen) { seen.emplace_back(unit, chosen); }, 1);
  CHECK(seen == std::vector<std::pair<int, bool>>{{1, true}, {1, false}, {2, true}, {2, false}, {3, true}, {3, false}});
}

}  // namespace test_unpair
