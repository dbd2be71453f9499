// SPDX-License-Identifier: Apache-2.0
// Padded collator: every sequence of a micro-batch is filled up on the right to the longest. Use it with modules that
// take a [B, T] matrix of ids, and as the oracle of the packed one.
#pragma once

#include "kto/collate/sequences.hpp"

namespace kto {

struct PaddedCollator {
  static constexpr BatchParts provides{.kl_pairs = true, .padded_rows = true};
  std::optional<std::int64_t> max_length = 1024;       ///< tokens of prompt and completion
  std::optional<PartTruncation> parts = std::nullopt;  ///< how longer ones are cut; from the right when absent
  std::int64_t pad_id = 0;                             ///< the id of padding; no number depends on it
  std::int64_t pad_to_multiple_of = 1;                 ///< of the rows' length in tokens

  Batch operator()(std::span<const Pick> picks, bool with_kl) const {
    return detail::make_batch(picks, with_kl, {max_length, parts}, [&](const std::vector<TokenPair>& pairs) {
      std::int64_t longest = 1;
      for (const TokenPair& pair : pairs) longest = std::max(longest, static_cast<std::int64_t>(pair.size()));
      const auto multiple = std::max<std::int64_t>(pad_to_multiple_of, 1);
      return make_sequences(pairs, (longest + multiple - 1) / multiple * multiple, pad_id);
    });
  }
};

}  // namespace kto
