// SPDX-License-Identifier: Apache-2.0
// Both rules of truncation; the older one against the ids that KTOTrainer 0.22 makes of rows and of their KL pairs.
#include "catch.hpp"
#include "kto/data/processor.hpp"
#include "kto/data/rows.hpp"
#include "kto/data/separate_truncation.hpp"
#include "kto/data/truncation.hpp"
#include "tests/data/temporary_folder.hpp"

namespace test_truncation {

using namespace kto;

namespace {

using Ids = std::vector<std::int32_t>;

Ids iota(std::int32_t first, std::size_t n) {
  Ids ids(n);
  for (std::size_t i = 0; i < n; ++i) ids[i] = first + static_cast<std::int32_t>(i);
  return ids;
}

Ids copy(std::span<const std::int32_t> ids) { return {ids.begin(), ids.end()}; }

Truncation rule(std::optional<std::int64_t> max_length, TruncationMode mode, std::int64_t max_prompt_length = 512,
                std::optional<std::int64_t> max_completion_length = std::nullopt) {
  return {.max_length = max_length,
          .parts = PartTruncation{
              .mode = mode, .max_prompt_length = max_prompt_length, .max_completion_length = max_completion_length}};
}

constexpr auto keep_end = TruncationMode::keep_end, keep_start = TruncationMode::keep_start;

}  // namespace

TEST_CASE("truncation: without further options everything after max_length is dropped", "[data]") {
  const Ids prompt = iota(0, 6), completion = iota(100, 5);
  const auto kept = Truncation{.max_length = 8}({prompt, completion});
  CHECK(copy(kept.prompt) == prompt);
  CHECK(copy(kept.completion) == Ids{100, 101});
  CHECK(Truncation{.max_length = 6}({prompt, completion}).completion.empty());
  CHECK(copy(Truncation{.max_length = std::nullopt}({prompt, completion}).completion) == completion);
}

TEST_CASE("truncation: a limit on the tokens of a completion, including EOS", "[data]") {
  const Ids prompt = iota(0, 10), completion = iota(100, 5);
  Truncation cut = rule(std::nullopt, keep_end, 4, 3);
  cut.parts->eos_id = 7;
  const auto kept = cut({prompt, completion});
  CHECK(kept.prompt.size() == 10);
  CHECK(copy(kept.completion) == iota(100, 2));
  CHECK(kept.eos == 7);
  CHECK(cut({prompt, iota(5, 3)}).completion_size() == 3);  // EOS is there
}

TEST_CASE("truncation: rows and KL pairs are those of KTOTrainer 0.22", "[data]") {
  const fs::path goldens = fs::path(KTO_SOURCE_DIR) / "tests/golden/data";
  const Json golden = read_json(goldens / "older_cases.json");
  const kto_test::TemporaryFolder folder;
  fs::copy(goldens / "model", folder.path() / "no_bos", fs::copy_options::recursive);
  Json config = read_json(folder.path() / "no_bos/tokenizer_config.json");
  config.erase("bos_token");
  folder.write("no_bos/tokenizer_config.json", config.dump());
  const Processor with_bos(goldens / "model"), without_bos(folder.path() / "no_bos");
  for (const auto& [name, set] : golden["sets"].items()) {
    std::string lines;
    for (const Json& row : set) lines += row.dump() + "\n";
    folder.write(name + ".jsonl", lines);
  }
  for (const Json& expected : golden["cases"]) {
    const auto name = expected["set"].get<std::string>();
    const Processor& processor = expected["bos"].get<bool>() ? with_bos : without_bos;
    Truncation cut = rule(expected["max_length"].get<std::int64_t>(),
                          expected["truncation_mode"] == "keep_end" ? keep_end : keep_start,
                          expected["max_prompt_length"].get<std::int64_t>());
    const NamedTokens tokens = processor.named_tokens();
    if (tokens.bos) cut.parts->bos_id = tokens.bos->id;
    cut.parts->eos_id = tokens.eos.value().id;
    auto encoder = processor.encoder();
    encoder.older = true;
    const auto rows = encode_rows(read_rows(folder.path() / (name + ".jsonl")), encoder).examples;
    REQUIRE(rows.size() == expected["rows"].size());
    constexpr std::size_t batch = 4;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const std::size_t last = std::min(i / batch * batch + batch, rows.size()) - 1;
      const Example& partner = rows[i % batch == 0 ? last : i - 1];
      const TokenPair pair{rows[i].prompt_ids, rows[i].completion_ids};
      const auto same = [&](const TokenPair& kept, const Json& num_prompt, const Json& ids) {
        INFO(expected["set"] << ", " << cut.describe() << ", row " << i);
        Ids all;
        kept.append_prompt(all);
        CHECK(all.size() == num_prompt.get<std::size_t>());
        kept.append_completion(all);
        CHECK(all == ids.get<Ids>());
      };
      const Json& row = expected["rows"][i];
      same(cut(pair), row[0], row[1]);
      same(cut.mismatched(pair, partner.completion_ids), row[2], row[3]);
    }
  }
}

TEST_CASE("truncation: a rule that leaves nothing is refused", "[data]") {
  CHECK_THROWS_WITH(check_truncation(rule(1, keep_end)), KTO_CONTAINS("max_length is 1; expected 2"));
  CHECK_THROWS_WITH(check_truncation(rule(8, keep_end, 0)), KTO_CONTAINS("max_prompt_length is 0"));
  CHECK_THROWS_WITH(check_truncation(rule(8, keep_end, 1, 0)), KTO_CONTAINS("max_completion_length is 0"));
  CHECK_NOTHROW(check_truncation(rule(2, keep_end, 1, 1)));
}

TEST_CASE("truncation is reported", "[data]") {
  const std::vector<Example> rows{{.prompt_ids = iota(0, 40), .completion_ids = iota(100, 30)},
                                  {.prompt_ids = iota(0, 5), .completion_ids = iota(100, 5)}};
  Truncation cut = rule(33, keep_end, 20);
  cut.parts->eos_id = 7;
  CHECK(truncation_note(rows, cut) ==
        "of 2 rows 1 prompts and 1 completions are truncated (max_length 33, prompt 20, completion none, keep_end, BOS "
        "none, "
        "EOS 7)");
  cut.parts->max_prompt_length = 512;
  CHECK_THAT(truncation_note(rows, cut), KTO_CONTAINS("1 stay longer than max_length"));
  CHECK(truncation_note(rows, Truncation{.max_length = std::nullopt}).empty());
}

TEST_CASE("truncation of prompt and completion apart keeps the special tokens around a text", "[data]") {
  const TextFrame frame{{7}, {8, 9}};
  const auto cut = [&](Ids ids, std::int64_t limit, TruncationMode mode) {
    frame.cut(ids, limit, mode);
    return ids;
  };
  const Ids framed{7, 1, 2, 3, 4, 8, 9};
  CHECK(cut(framed, 7, keep_end) == framed);
  CHECK(cut(framed, 5, keep_end) == Ids{7, 3, 4, 8, 9});
  CHECK(cut(framed, 5, keep_start) == Ids{7, 1, 2, 8, 9});
  CHECK(cut(framed, 1, keep_end) == Ids{7, 8, 9});
  CHECK(cut({1, 2, 3, 4}, 3, keep_end) == Ids{2, 3, 4});
  CHECK(cut({1, 2, 3, 4}, 3, keep_start) == Ids{1, 2, 3});

  std::vector<Example> rows{{.prompt_ids = iota(0, 6), .completion_ids = Ids{1, 2, 3, 9}},
                            {.prompt_ids = iota(0, 3), .completion_ids = Ids{9}}};
  const SeparateTruncation rule{.max_prompt_length = 4, .max_completion_length = 3, .completion_frame = {{}, {9}}};
  CHECK(rule(rows) ==
        "of 2 rows 1 prompts and 1 completions are truncated (max_prompt_length 4, max_completion_length 3, keep_end)");
  CHECK(rows[0].prompt_ids == Ids{2, 3, 4, 5});
  CHECK(rows[0].completion_ids == Ids{1, 2, 9});
  CHECK(rule(rows).empty());
}

TEST_CASE("prompt and completion are tokenized apart for encoder-decoders, each with its special tokens", "[data]") {
  const Processor processor(fs::path(KTO_SOURCE_DIR) / "tests/golden/data/model");
  const std::int32_t begin = processor.named_tokens().bos.value().id, end = processor.named_tokens().eos.value().id;
  CHECK(text_frame(processor.tokenizer()).before == Ids{begin});
  CHECK(text_frame(processor.tokenizer()).after.empty());
  auto encoder = processor.encoder();
  encoder.completion_end = end;
  const auto encoded = [&](Json prompt, Json completion, bool tokenized = false) {
    Row row;
    row.prompt = std::move(prompt);
    row.completion = std::move(completion);
    row.tokenized = tokenized;
    return encoder.encode(row).first;
  };
  const auto ids = [&](const char* text) { return processor.tokenizer().encode(text, true); };
  const auto with_end = [&](Ids text) {
    text.push_back(end);
    return text;
  };
  const Example plain = encoded("Hello wor", "ld of words");
  CHECK(plain.prompt_ids == ids("Hello wor"));
  CHECK(plain.completion_ids == with_end(ids("ld of words")));
  CHECK(encoded("a", "b<|end|>").completion_ids == ids("b<|end|>"));
  CHECK(encoded("a", "").completion_ids == with_end(ids("")));
  const Example ready = encoded({1, 2}, {3}, true);
  CHECK(ready.prompt_ids == Ids{1, 2});
  CHECK(ready.completion_ids == Ids{3});
  CHECK_THROWS_WITH(encoded(Json::array(), {3}, true), KTO_CONTAINS("no tokens for the encoder"));
  const Example chat = encoded(Json::array({{{"role", "user"}, {"content", "Hi"}}}),
                               Json::array({{{"role", "assistant"}, {"content", "Yo"}}}));
  CHECK(chat.prompt_ids.front() == begin);
  CHECK(chat.completion_ids.back() == end);
}

}  // namespace test_truncation
