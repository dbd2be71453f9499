// SPDX-License-Identifier: Apache-2.0
// Rows of encoder-decoder models: prompt and completion are cut apart from each other, once, before any batch is made.
// The special tokens that the tokenizer puts around a text stay.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kto/core/error.hpp"
#include "kto/data/concept.hpp"
#include "kto/data/truncation.hpp"

namespace kto {

/// Special tokens before and after a text.
struct TextFrame {
  std::vector<std::int32_t> before, after;

  /// Leaves at most `limit` of `ids`, the frame included where they have it. Returns whether it cut any.
  bool cut(std::vector<std::int32_t>& ids, std::int64_t limit, TruncationMode mode) const {
    const auto most = static_cast<std::size_t>(limit);
    if (ids.size() <= most) return false;
    const bool begins = std::ranges::equal(before, std::span(ids).first(std::min(ids.size(), before.size())));
    const bool ends = std::ranges::equal(after, std::span(ids).last(std::min(ids.size(), after.size())));
    const std::size_t head = begins ? before.size() : 0, tail = ends ? after.size() : 0;
    const std::size_t gone = std::min(ids.size() - most, ids.size() - std::min(ids.size(), head + tail));
    const auto first = mode == TruncationMode::keep_end ? ids.begin() + static_cast<std::ptrdiff_t>(head)
                                                        : ids.end() - static_cast<std::ptrdiff_t>(tail + gone);
    ids.erase(first, first + static_cast<std::ptrdiff_t>(gone));
    return true;
  }
};

/// What `tokenizer` puts around a text.
template <EncodesText Tokenizer>
TextFrame text_frame(const Tokenizer& tokenizer) {
  const std::vector<std::int32_t> framed = tokenizer.encode("a", true), bare = tokenizer.encode("a", false);
  const auto found = std::ranges::search(framed, bare);
  if (found.empty()) return {};
  return {{framed.begin(), found.begin()}, {found.end(), framed.end()}};
}

/// How rows are cut: prompts at the end that `mode` says, completions at their end.
struct SeparateTruncation {
  TruncationMode mode = TruncationMode::keep_end;
  std::int64_t max_prompt_length = 512;      ///< tokens that the encoder reads
  std::int64_t max_completion_length = 128;  ///< tokens that the decoder writes, EOS included
  TextFrame prompt_frame = {}, completion_frame = {};

  /// Cuts `rows`. Returns a note on how many prompts and completions it cut; empty if none.
  std::string operator()(std::span<Example> rows) const {
    std::size_t prompts = 0, completions = 0;
    for (Example& row : rows) {
      prompts += prompt_frame.cut(row.prompt_ids, max_prompt_length, mode) ? 1 : 0;
      completions +=
          completion_frame.cut(row.completion_ids, max_completion_length, TruncationMode::keep_start) ? 1 : 0;
    }
    if (prompts + completions == 0) return "";
    return concat("of ", rows.size(), " rows ", prompts, " prompts and ", completions,
                  " completions are truncated (max_prompt_length ", max_prompt_length, ", max_completion_length ",
                  max_completion_length, mode == TruncationMode::keep_end ? ", keep_end)" : ", keep_start)");
  }
};

}  // namespace kto
