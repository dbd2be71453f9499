// SPDX-License-Identifier: Apache-2.0
// Both rules of truncation, on made-up lengths and on long real rows and their KL pairs.
#include "catch.hpp"
#include "kto/data/processor.hpp"
#include "kto/data/rows.hpp"
#include "kto/data/truncation.hpp"

using namespace kto;

namespace {

using Ids = std::vector<std::int32_t>;

Ids iota(std::int32_t first, std::size_t n) {
  Ids ids(n);
  for (std::size_t i = 0; i < n; ++i) ids[i] = first + static_cast<std::int32_t>(i);
  return ids;
}

Ids copy(std::span<const std::int32_t> ids) { return {ids.begin(), ids.end()}; }

/// The older rule as the issue and KTOTrainer's documentation word it, on vectors.
std::pair<Ids, Ids> by_the_words(Ids prompt, Ids completion, const Truncation& rule) {
  const auto& parts = *rule.parts;
  if (parts.max_completion_length)
    while (static_cast<std::int64_t>(completion.size()) > *parts.max_completion_length) completion.pop_back();
  const auto size = [&] { return static_cast<std::int64_t>(prompt.size() + completion.size()); };
  if (rule.max_length && size() > *rule.max_length) {
    while (static_cast<std::int64_t>(prompt.size()) > parts.max_prompt_length ||
           static_cast<std::int64_t>(prompt.size()) >= *rule.max_length)
      prompt.erase(parts.mode == TruncationMode::keep_start ? prompt.end() - 1 : prompt.begin());
    while (size() > *rule.max_length) completion.pop_back();
  }
  return {prompt, completion};
}

Truncation rule(std::optional<std::int64_t> max_length, TruncationMode mode, std::int64_t max_prompt_length = 512,
                std::optional<std::int64_t> max_completion_length = std::nullopt) {
  return {.max_length = max_length,
          .parts = PartTruncation{
              .mode = mode, .max_prompt_length = max_prompt_length, .max_completion_length = max_completion_length}};
}

constexpr auto keep_end = TruncationMode::keep_end, keep_start = TruncationMode::keep_start;

}  // namespace

TEST_CASE("truncation: without further options everything after max_length is left out", "[data]") {
  const Ids prompt = iota(0, 6), completion = iota(100, 5);
  const auto kept = Truncation{.max_length = 8}({prompt, completion});
  CHECK(copy(kept.prompt) == prompt);
  CHECK(copy(kept.completion) == Ids{100, 101});
  CHECK(Truncation{.max_length = 6}({prompt, completion}).completion.empty());
  CHECK(copy(Truncation{.max_length = std::nullopt}({prompt, completion}).completion) == completion);
}

TEST_CASE("truncation: a long prompt keeps its end or its start, then the completion gives way", "[data]") {
  const Ids prompt = iota(0, 10), completion = iota(100, 5);
  auto kept = rule(10, keep_end, 4)({prompt, completion});
  CHECK(copy(kept.prompt) == iota(6, 4));
  CHECK(copy(kept.completion) == completion);
  kept = rule(10, keep_start, 4)({prompt, completion});
  CHECK(copy(kept.prompt) == iota(0, 4));
  kept = rule(10, keep_end, 7)({prompt, completion});
  CHECK(copy(kept.prompt) == iota(3, 7));
  CHECK(copy(kept.completion) == iota(100, 3));
  kept = rule(10, keep_end)({prompt, completion});  // 512: the prompt alone would fill max_length
  CHECK(copy(kept.prompt) == iota(1, 9));
  CHECK(copy(kept.completion) == iota(100, 1));
  kept = rule(15, keep_end, 4)({prompt, completion});  // it fits: nothing is cut, however long the prompt
  CHECK(copy(kept.prompt) == prompt);
  kept = rule(std::nullopt, keep_end, 4, 2)({prompt, completion});
  CHECK(copy(kept.prompt) == prompt);
  CHECK(copy(kept.completion) == iota(100, 2));
}

TEST_CASE("truncation: a rule that leaves nothing is refused", "[data]") {
  CHECK_THROWS_WITH(check_truncation(rule(1, keep_end)), KTO_CONTAINS("max_length is 1; expected 2"));
  CHECK_THROWS_WITH(check_truncation(rule(8, keep_end, 0)), KTO_CONTAINS("max_prompt_length is 0"));
  CHECK_THROWS_WITH(check_truncation(rule(8, keep_end, 1, 0)), KTO_CONTAINS("max_completion_length is 0"));
  CHECK_NOTHROW(check_truncation(rule(2, keep_end, 1, 1)));
}

TEST_CASE("truncation: long real rows and their KL pairs, under every rule", "[data]") {
  const std::string root = KTO_SOURCE_DIR;
  const Processor processor(root + "/tests/golden/data/model");
  const auto rows = encode_rows(read_rows(root + "/examples/data", "train"), processor.encoder()).examples;
  REQUIRE(rows.size() > 50);
  std::size_t cut_prompts = 0, cut_completions = 0;
  for (const std::optional<std::int64_t> max_length : {std::optional<std::int64_t>(), {2}, {33}, {128}, {512}})
    for (const auto mode : {keep_end, keep_start})
      for (const std::int64_t max_prompt : {1, 40, 512})
        for (const std::optional<std::int64_t> max_completion : {std::optional<std::int64_t>(), {1}, {50}}) {
          const Truncation cut = rule(max_length, mode, max_prompt, max_completion);
          for (std::size_t i = 0; i < rows.size(); ++i) {
            const Example &row = rows[i], &partner = rows[(i + rows.size() - 1) % rows.size()];
            for (const Example* completion : {&row, &partner}) {
              const auto kept = cut({row.prompt_ids, completion->completion_ids});
              const auto [prompt_ids, completion_ids] = by_the_words(row.prompt_ids, completion->completion_ids, cut);
              if (copy(kept.prompt) != prompt_ids || copy(kept.completion) != completion_ids || kept.completion.empty())
                FAIL(cut.describe() << ": row " << i);
              cut_prompts += kept.prompt.size() < row.prompt_ids.size() ? 1 : 0;
              cut_completions += kept.completion.size() < completion->completion_ids.size() ? 1 : 0;
            }
          }
        }
  CHECK(cut_prompts > 1000);
  CHECK(cut_completions > 1000);
  CHECK_THAT(truncation_note(rows, rule(33, keep_end, 20)),
             KTO_CONTAINS("completions are cut (max_length 33, prompt 20"));
  CHECK(truncation_note(rows, Truncation{.max_length = std::nullopt}).empty());
}
