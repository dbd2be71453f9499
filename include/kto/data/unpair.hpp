// SPDX-License-Identifier: Apache-2.0
// Pairs to rows: finds the prompt that chosen and rejected share, and makes two rows of a pair, in TRL's order.
#pragma once

#include <algorithm>
#include <cstddef>
#include <range/v3/view/chunk.hpp>
#include <string>
#include <utility>
#include <vector>

#include "kto/core/utf8.hpp"
#include "kto/data/row.hpp"

namespace kto {

namespace detail {

/// Equal as Python's dicts are: keys in any order. A key that holds null counts as absent.
inline bool same_json(const Json& a, const Json& b) {
  if (a.is_array() && b.is_array()) return std::ranges::equal(a, b, same_json);
  if (!a.is_object() || !b.is_object()) return a == b;
  const auto within = [](const Json& part, const Json& whole) {
    for (const auto& [key, value] : part.items()) {
      const auto other = whole.find(key);
      if (other == whole.end() ? !value.is_null() : !same_json(value, *other)) return false;
    }
    return true;
  };
  return within(a, b) && within(b, a);
}

/// Cuts both texts after their shared code points. TRL's rules: a space before the difference goes to the completions;
/// when one text is the start of the other, its last code point is not part of the prompt; and "before" the first code
/// point stands the last one of `chosen`.
inline std::pair<std::size_t, std::size_t> text_prompt_ends(std::string_view chosen, std::string_view rejected) {
  const auto before = [](std::string_view text, std::size_t at) {
    do --at;
    while (is_continuation(text[at]));
    return at;
  };
  std::size_t end = common_prefix(chosen, rejected);
  if (end == std::min(chosen.size(), rejected.size()))
    end = before(chosen, end);
  else if (end == 0 && chosen.back() == ' ')
    return {chosen.size() - 1, before(rejected, rejected.size())};
  else if (end > 0 && chosen[end - 1] == ' ')
    --end;
  return {end, end};
}

}  // namespace detail

/// Moves what `chosen` and `rejected` begin with into `prompt`: messages, or code points of plain text, as TRL's
/// extract_prompt does. Throws Error when there is no shared first message, or a text is empty.
inline void extract_prompt(Pair& pair) {
  const std::string problem = "there is no prompt column, and \"chosen\" and \"rejected\" ";
  if (pair.chosen.is_string()) {
    const std::string chosen = pair.chosen.get<std::string>(), rejected = pair.rejected.get<std::string>();
    check(!chosen.empty() && !rejected.empty(), problem, "share none: one of them is empty");
    const auto [chosen_end, rejected_end] = detail::text_prompt_ends(chosen, rejected);
    pair.prompt = chosen.substr(0, chosen_end);
    pair.chosen = chosen.substr(chosen_end);
    pair.rejected = rejected.substr(rejected_end);
    return;
  }
  const std::size_t shorter = std::min(pair.chosen.size(), pair.rejected.size());
  std::size_t end = 0;
  while (end < shorter && detail::same_json(pair.chosen[end], pair.rejected[end])) ++end;
  if (end == shorter && end > 0) --end;
  check(end > 0, problem, "share no first message that could be the prompt");
  const auto cut = static_cast<std::ptrdiff_t>(end);
  const auto rest = [&](const Json& list) { return Json(Json::array_t(list.begin() + cut, list.end())); };
  pair.prompt = Json::array_t(pair.chosen.begin(), pair.chosen.begin() + cut);
  pair.chosen = rest(pair.chosen);
  pair.rejected = rest(pair.rejected);
}

/// Pairs that one pass of TRL's unpairing takes: their chosen rows come first, then their rejected ones.
inline constexpr std::ptrdiff_t unpair_chunk = 1000;

/// Calls visit(unit, is_chosen) for both rows of each unit (a pair), in TRL's order: of each `chunk` units the chosen
/// rows first. With a chunk of 1 the two stay together.
template <class Units, class Visit>
void visit_unpaired(const Units& units, const Visit& visit, std::ptrdiff_t chunk = unpair_chunk) {
  for (auto&& some : units | ranges::views::chunk(chunk))
    for (const bool is_chosen : {true, false})
      for (const auto& unit : some) visit(unit, is_chosen);
}

/// The two rows of each pair, in TRL's order.
inline std::vector<Row> unpair(const std::vector<Pair>& pairs) {
  std::vector<Row> rows;
  rows.reserve(2 * pairs.size());
  visit_unpaired(pairs, [&](const Pair& pair, bool label) {
    rows.push_back({static_cast<const RowContext&>(pair), label ? pair.chosen : pair.rejected, label});
  });
  return rows;
}

}  // namespace kto
