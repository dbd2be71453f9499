// SPDX-License-Identifier: Apache-2.0
#include <functional>
#include <random>

#include "catch.hpp"
#include "kto/collate/packed.hpp"
#include "kto/collate/padded.hpp"
#include "kto/collate/pairing.hpp"
#include "kto/collate/sampler.hpp"

namespace test_collate {

using Ids = std::vector<std::int64_t>;

namespace {

Ids values(const at::Tensor& tensor) {
  const auto* data = tensor.const_data_ptr<std::int64_t>();
  return {data, data + tensor.numel()};
}

const std::vector<kto::Example> rows{{.prompt_ids = {1, 2, 3}, .completion_ids = {4, 5}, .label = true, .row = 0},
                                     {.prompt_ids = {7, 8}, .completion_ids = {9}, .label = false, .row = 1},
                                     {.prompt_ids = {11}, .completion_ids = {12, 13, 14}, .label = true, .row = 2}};
const std::vector<kto::Pick> picks{{&rows[0], &rows[2]}, {&rows[1], &rows[0]}, {&rows[2], &rows[1]}};

}  // namespace

TEST_CASE("packed: one row, boundaries, positions restart, completion tokens scored") {
  const auto batch = kto::PackedCollator{}(picks, true);
  CHECK(values(batch.rows.ids_N) == Ids{1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 13, 14});
  CHECK(values(batch.rows.position_N) == Ids{0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3});
  CHECK((batch.rows.segments == std::vector<kto::Segment>{{0, 5}, {5, 3}, {8, 4}}));
  CHECK(values(batch.rows.predict_C) == Ids{2, 3, 6, 8, 9, 10});
  CHECK(values(batch.rows.target_C) == Ids{4, 5, 9, 12, 13, 14});
  CHECK(values(batch.rows.row_C) == Ids{0, 0, 1, 2, 2, 2});
  CHECK(batch.rows.num_tokens == 12);
  CHECK(batch.num_chosen == 2);
  CHECK(at::equal(batch.sign_B, at::tensor({1.0, -1.0, 1.0}, at::kDouble)));
  REQUIRE(batch.kl_rows);
  CHECK(values(batch.kl_rows->ids_N) == Ids{1, 2, 3, 12, 13, 14, 7, 8, 4, 5, 11, 9});
  CHECK_FALSE(kto::PackedCollator{}(picks, false).kl_rows);
}

TEST_CASE("padded: equal segments, the same scored tokens") {
  const auto batch = kto::PaddedCollator{.pad_id = 99}(picks, true);
  CHECK(values(batch.rows.ids_N) == Ids{1, 2, 3, 4, 5, 7, 8, 9, 99, 99, 11, 12, 13, 14, 99});
  CHECK((batch.rows.segments == std::vector<kto::Segment>{{0, 5}, {5, 5}, {10, 5}}));
  CHECK(values(batch.rows.predict_C) == Ids{2, 3, 6, 10, 11, 12});
  CHECK(values(batch.rows.target_C) == Ids{4, 5, 9, 12, 13, 14});
  CHECK(batch.rows.num_tokens == 12);
  CHECK((kto::PaddedCollator{.pad_to_multiple_of = 4}(picks, false).rows.segments[1] == kto::Segment{8, 8}));
}

TEST_CASE("max_length cuts every pair from the right, KL pairs too") {
  const auto batch = kto::PackedCollator{.max_length = 4}(picks, true);
  CHECK(values(batch.rows.ids_N) == Ids{1, 2, 3, 4, 7, 8, 9, 11, 12, 13, 14});
  CHECK(values(batch.kl_rows->ids_N) == Ids{1, 2, 3, 12, 7, 8, 4, 5, 11, 9});
}

TEST_CASE("an empty prompt leaves the first token unscored") {
  const std::vector<kto::Example> bare{{.prompt_ids = {}, .completion_ids = {4, 5}}};
  const auto batch = kto::PackedCollator{}(std::vector<kto::Pick>{{&bare[0], &bare[0]}}, false);
  CHECK(values(batch.rows.predict_C) == Ids{0});
  CHECK(values(batch.rows.target_C) == Ids{5});
}

TEST_CASE("KL partners rotate by one within each group") {
  using Rows = std::vector<std::size_t>;
  CHECK(kto::kl_partners(Rows{0, 1, 2, 3, 4, 5, 6}, 3) == Rows{2, 0, 1, 5, 3, 4, 6});
  CHECK(kto::kl_partners(Rows{5, 1, 3}, 8) == Rows{3, 5, 1});
  CHECK(kto::kl_partners(Rows{}, 4).empty());
  CHECK(kto::kl_partners(Rows{4, 2, 0, 1, 3}, Rows{1, 3, 1}) == Rows{4, 1, 2, 0, 3});
}

TEST_CASE("token groups: until the next would pass the budget, one at least, so many at most") {
  using Rows = std::vector<std::size_t>;
  const std::vector<std::int64_t> lengths{3, 3, 4, 30, 1, 1, 1, 10};
  const Rows order{0, 1, 2, 3, 4, 5, 6, 7};
  CHECK(kto::token_groups(order, lengths, 10, 100) == Rows{3, 1, 3, 1});
  CHECK(kto::token_groups(order, lengths, 9, 2) == Rows{2, 1, 1, 2, 1, 1});
  CHECK(kto::token_groups(Rows{7, 4, 3}, lengths, 11, 100) == Rows{2, 1});
  CHECK(kto::token_groups(Rows{}, lengths, 11, 100).empty());
}

TEST_CASE("the packed collator counts the tokens that it packs") {
  for (const std::int64_t max_length : {4, 100}) {
    const kto::PackedCollator collator{.max_length = max_length};
    std::int64_t sum = 0;
    for (const auto& pick : picks) sum += collator.num_tokens(*pick.example);
    CHECK(sum == collator(picks, true).rows.num_tokens);
  }
}

TEST_CASE("orders are permutations that depend on seed and epoch alone") {
  const auto sorted = [](std::vector<std::size_t> order) {
    std::sort(order.begin(), order.end());
    return order;
  };
  const auto order = kto::shuffled_order(100, 42, 0);
  CHECK(sorted(order) == kto::sequential_order(100));
  CHECK(order == kto::shuffled_order(100, 42, 0));
  CHECK(order != kto::shuffled_order(100, 42, 1));
  // torch.randperm(8, generator=torch.Generator().manual_seed(42))
  CHECK(kto::shuffled_order(8, 42, 0) == std::vector<std::size_t>{6, 3, 0, 7, 2, 1, 4, 5});

  std::vector<std::int64_t> lengths;
  for (int i = 0; i < 103; ++i) lengths.push_back((i * 37) % 101);
  const auto grouped = kto::length_grouped_order(lengths, 4, 1, 0);
  CHECK(sorted(grouped) == kto::sequential_order(103));
  const auto spread = [&](const std::vector<std::size_t>& rows_in) {
    std::int64_t padding = 0;
    for (std::size_t begin = 0; begin < rows_in.size(); begin += 4) {
      std::int64_t longest = 0;
      for (std::size_t i = begin; i < std::min(begin + 4, rows_in.size()); ++i)
        longest = std::max(longest, lengths[rows_in[i]]);
      for (std::size_t i = begin; i < std::min(begin + 4, rows_in.size()); ++i)
        padding += longest - lengths[rows_in[i]];
    }
    return padding;
  };
  CHECK(spread(grouped) * 3 < spread(kto::sequential_order(103)));
  CHECK(lengths[grouped[0]] == 100);
}

TEST_CASE("what prompts begin with is laid out once, and KL completions follow whole prompts") {
  std::vector<kto::Example> examples(3);
  for (std::int32_t i = 0; i < 3; ++i) {
    for (std::int32_t t = 0; t < 16; ++t) examples[i].prompt_ids.push_back(i == 1 ? 40 + t : 10 + t);
    examples[i].prompt_ids.push_back(50 + i);
    examples[i].completion_ids = {60 + i, 70 + i};
  }
  const std::vector<kto::Pick> rotated{
      {&examples[0], &examples[1]}, {&examples[1], &examples[2]}, {&examples[2], &examples[0]}};
  const kto::SharedPrompts shared = *kto::PackedCollator{}(rotated, true).shared;
  CHECK((shared.rows.segments == std::vector<kto::Segment>{{0, 16}, {16, 3, 0, 16}, {19, 3, 0, 16}, {22, 19, 22, 0}}));
  CHECK(values(shared.rows.ids_N.narrow(0, 16, 6)) == Ids{50, 60, 70, 52, 62, 72});
  CHECK(values(shared.rows.position_N.narrow(0, 16, 6)) == Ids{16, 17, 18, 16, 17, 18});
  CHECK(values(shared.rows.predict_C) == Ids{16, 17, 19, 20, 38, 39});
  CHECK(values(shared.rows.row_C) == Ids{0, 0, 2, 2, 1, 1});
  CHECK(shared.rows.num_tokens == 57);
  const kto::Sequences& tails = *shared.kl_tails;
  CHECK(values(tails.ids_N) == Ids{61, 71, 62, 72, 60, 70});
  CHECK((tails.segments == std::vector<kto::Segment>{{0, 2, 0, 17}, {2, 2, 17, 17}, {4, 2, 34, 17}}));
  CHECK(values(tails.predict_C) == Ids{16, 41, 38, 43, 19, 45});
  CHECK(values(shared.rows.ids_N.index_select(0, tails.prefix_P).narrow(0, 34, 17)).back() == 52);
  CHECK_FALSE(kto::PackedCollator{.max_length = 15}(rotated, true).shared->kl_tails->prefix_P.defined());
}

TEST_CASE("prompts are grouped so that as few tokens as possible are laid out") {
  std::mt19937 random(1);
  const auto draw = [&](std::uint32_t below) { return static_cast<std::uint32_t>(random() % below); };
  for (int round = 0; round < 200; ++round) {
    std::vector<std::vector<std::int32_t>> prompts(5);
    for (auto& prompt : prompts) {
      if (draw(8) == 0) continue;  // an empty one
      prompt.assign(draw(2) == 0 ? 15 : 17, 7);
      for (std::uint32_t n = draw(6); n > 0; --n) prompt.push_back(static_cast<std::int32_t>(draw(2)));
    }
    std::vector<kto::TokenPair> pairs;
    for (const auto& prompt : prompts) pairs.push_back({.prompt = prompt, .completion = {}});
    const auto saved_by = [&](const std::vector<std::size_t>& members) -> std::size_t {
      std::size_t length = prompts[members[0]].size(), longest = length;
      for (const std::size_t b : members) {
        const auto end = std::ranges::mismatch(prompts[members[0]], prompts[b]).in1 - prompts[members[0]].begin();
        length = std::min(length, static_cast<std::size_t>(end));
        longest = std::max(longest, prompts[b].size());
      }
      return length >= 16 || length == longest ? (members.size() - 1) * length : 0;
    };
    std::size_t most = 0;  // of all divisions: the group of each pair is at most one more than those before it
    std::vector<std::size_t> group_of(5);
    const std::function<void(std::size_t, std::size_t)> divide = [&](std::size_t b, std::size_t num_groups) {
      if (b < 5) {
        for (group_of[b] = 0; group_of[b] <= num_groups; ++group_of[b])
          divide(b + 1, std::max(num_groups, group_of[b] + 1));
        return;
      }
      std::vector<std::vector<std::size_t>> groups(num_groups);
      for (std::size_t i = 0; i < 5; ++i) groups[group_of[i]].push_back(i);
      std::size_t saved = 0;
      for (const auto& group : groups) saved += saved_by(group);
      most = std::max(most, saved);
    };
    divide(0, 0);
    std::size_t saved = 0, members = 0;
    for (const auto& [length, group] : kto::detail::shared_beginnings(pairs)) {
      members += group.size();
      saved += (group.size() - 1) * length;
      CHECK((group.size() == 1 || saved_by(group) == (group.size() - 1) * length));
    }
    CHECK(members == 5);
    CHECK(saved == most);
  }
}

}  // namespace test_collate
