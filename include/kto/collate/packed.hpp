// SPDX-License-Identifier: Apache-2.0
// Packed collator (padding-free): all sequences of a micro-batch in one row, no padding; attention never crosses their
// boundaries and positions restart. Use it with models that read Sequences::segments (kto::Decoder); the default.
#pragma once

#include "kto/collate/shared_prompt.hpp"

namespace kto {

struct PackedCollator {
  static constexpr BatchParts provides{.kl_pairs = true};
  std::optional<std::int64_t> max_length = 1024;       ///< tokens of prompt and completion
  std::optional<PartTruncation> parts = std::nullopt;  ///< how longer ones are cut; from the right when absent
  /// Tokens that prompts share (whole prompts, or what they begin with) are encoded once, where model and trainer can;
  /// not with `parts`, which cut a prompt again for each completion.
  bool share_prompt = true;

  std::int64_t num_tokens(const Example& row) const {
    return static_cast<std::int64_t>(Truncation{max_length, parts}({row.prompt_ids, row.completion_ids}).size());
  }

  Batch operator()(std::span<const Pick> picks, bool with_kl) const {
    Batch batch = detail::make_batch(picks, with_kl, {max_length, parts},
                                     [](const std::vector<TokenPair>& pairs) { return make_sequences(pairs); });
    if (share_prompt && !parts) batch.shared = make_shared_prompts(picks, max_length, with_kl);
    return batch;
  }
};

}  // namespace kto
