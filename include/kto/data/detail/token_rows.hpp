// SPDX-License-Identifier: Apache-2.0
// Rows that are already tokenized, in the columns of KTOTrainer's older releases: completion_input_ids holds prompt and
// completion, completion_labels the same ids with everything but the completion replaced by label_pad_token_id.
#pragma once

#include <cstdint>
#include <limits>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/data/detail/columns.hpp"

namespace kto::detail {

/// The column as integers within [least, most].
inline std::vector<std::int64_t> integers(const Json& row, std::string_view column, std::int64_t least,
                                          std::int64_t most) {
  const Json& value = need_value(row, column, concat('"', column, '"'), "a list of integers");
  check(value.is_array(), '"', column, "\" is ", describe_value(value), "; expected a list of integers");
  std::vector<std::int64_t> out;
  out.reserve(value.size());
  for (const Json& item : value) {
    const auto number = json_as<std::int64_t>(item);
    check(number && *number >= least && *number <= most, '"', column, "\" holds ", describe_value(item), " at ",
          out.size(), "; expected an integer from ", least, " to ", most);
    out.push_back(*number);
  }
  return out;
}

/// Splits a tokenized row into the ids of prompt and completion. Drops padding: where completion_attention_mask (if
/// given) is 0, and after the completion where the label is `pad`. Throws Error unless the labels describe one
/// completion at the end of the row.
inline std::pair<Json, Json> split_token_row(const Json& row, std::int64_t pad) {
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max(), least = -most - 1;
  const auto ids = integers(row, "completion_input_ids", 0, most);
  const auto labels = integers(row, "completion_labels", least, most);
  const auto same_length = [&](std::string_view column, std::size_t length) {
    check(length == ids.size(), '"', column, "\" has ", length, " entries, but \"completion_input_ids\" ", ids.size(),
          "; expected the same number");
  };
  same_length("completion_labels", labels.size());
  std::vector<std::int64_t> mask(ids.size(), 1);
  if (find_value(row, "completion_attention_mask")) mask = integers(row, "completion_attention_mask", 0, 1);
  same_length("completion_attention_mask", mask.size());

  const auto place = [&](auto found, const auto& list) { return static_cast<std::size_t>(found - list.begin()); };
  const auto is_label = [&](std::int64_t label) { return label != pad; };
  const std::size_t begin = place(std::ranges::find(mask, 1), mask);
  const std::size_t start = place(std::ranges::find_if(labels, is_label), labels);
  const std::size_t end =
      place(std::find(labels.begin() + static_cast<std::ptrdiff_t>(start), labels.end(), pad), labels);
  check(start < end, "\"completion_labels\" is label_pad_token_id (", pad,
        ") everywhere: the completion has no tokens");
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const bool is_completion = i >= start && i < end, is_prompt = i >= begin && i < start;
    check(!is_completion || labels[i] == ids[i], "\"completion_labels\" has ", labels[i], " at ", i,
          ", where \"completion_input_ids\" has ", ids[i], "; expected the same id, or label_pad_token_id (", pad, ")");
    check(i < end || labels[i] == pad, "\"completion_labels\" resumes at ", i, " after label_pad_token_id (", pad,
          ") at ", end, "; expected one completion at the end of its row");
    check(mask[i] == 1 || !(is_completion || is_prompt), "\"completion_attention_mask\" is 0 at ", i,
          ", within the row; expected 0 only for padding at its ends");
  }
  const auto part = [&](std::size_t from, std::size_t to) {
    return Json(std::vector<std::int64_t>(ids.begin() + static_cast<std::ptrdiff_t>(std::min(from, to)),
                                          ids.begin() + static_cast<std::ptrdiff_t>(to)));
  };
  return {part(begin, start), part(start, end)};
}

}  // namespace kto::detail
