// SPDX-License-Identifier: Apache-2.0
// Packed collator (padding-free): all sequences of a micro-batch in one row, no padding; attention never crosses their
// boundaries and positions restart. Use it with models that read Sequences::segments (kto::Decoder); the default.
#pragma once

#include "kto/collate/sequences.hpp"

namespace kto {

struct PackedCollator {
  static constexpr BatchParts provides{.kl_pairs = true};
  std::optional<std::int64_t> max_length = 1024;       ///< tokens of prompt and completion
  std::optional<PartTruncation> parts = std::nullopt;  ///< how longer ones are cut; from the right when absent

  Batch operator()(std::span<const Pick> picks, bool with_kl) const {
    return detail::make_batch(picks, with_kl, [&](const std::vector<TokenPair>& pairs) {
      return make_sequences(pairs, {max_length, parts});
    });
  }
};

}  // namespace kto
