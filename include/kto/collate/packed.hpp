// SPDX-License-Identifier: Apache-2.0
// Packed collator (padding-free): all sequences of a micro-batch in one row, no padding; attention never crosses their
// boundaries and positions restart. Use it with models that read Sequences::segments (kto::Decoder); the default.
#pragma once

#include "kto/collate/shared_prompt.hpp"

namespace kto {

struct PackedCollator {
  static constexpr BatchParts provides{.kl_pairs = true};
  std::optional<std::int64_t> max_length = 1024;  ///< tokens of prompt and completion; cut from the right
  bool share_prompt = true;  ///< a prompt of several completions is encoded once, where model and trainer can

  Batch operator()(std::span<const Pick> picks, bool with_kl) const {
    Batch batch = detail::make_batch(
        picks, with_kl, [&](const std::vector<TokenPair>& pairs) { return make_sequences(pairs, max_length); });
    if (share_prompt) batch.shared = make_shared_prompts(picks, max_length, with_kl);
    return batch;
  }
};

}  // namespace kto
