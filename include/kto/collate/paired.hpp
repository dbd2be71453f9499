// SPDX-License-Identifier: Apache-2.0
// Paired collator: micro-batches whose first half are chosen rows and whose second half are the rejected ones of the
// same prompts, for losses that need chosen_rejected (DPO, IPO, APO-down, paired APO-zero). `Layout` lays the tokens
// out: PackedCollator or PaddedCollator. The trainer then takes rows as chosen, rejected, chosen, rejected, ...
#pragma once

#include "kto/collate/packed.hpp"

namespace kto {

template <CollatorPolicy Layout = PackedCollator>
struct PairedCollator {
  static constexpr BatchParts provides{
      .kl_pairs = Layout::provides.kl_pairs, .chosen_rejected = true, .padded_rows = Layout::provides.padded_rows};
  Layout layout = {};  ///< makes the batches

  std::int64_t num_tokens(const Example& row) const
    requires CountsTokens<Layout>
  {
    return layout.num_tokens(row);
  }

  /// Throws Error naming the rows when a pair is not (chosen, rejected) of one prompt.
  Batch operator()(std::span<const Pick> picks, bool with_kl) const {
    const std::size_t half = picks.size() / 2;
    check(picks.size() % 2 == 0, "a batch of pairs has an odd number of rows: ", picks.size());
    for (std::size_t i = 0; i < half; ++i) {
      const Example &chosen = *picks[i].example, &rejected = *picks[half + i].example;
      check(
          chosen.label && !rejected.label && chosen.row == rejected.row, "rows ", chosen.row, " and ", rejected.row,
          " are no pair: expected a chosen and a rejected row of one number, in this order (kto::pair_up makes them)");
    }
    return layout(picks, with_kl);
  }
};

}  // namespace kto
