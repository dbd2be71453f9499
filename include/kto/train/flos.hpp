// SPDX-License-Identifier: Apache-2.0
// Floating-point operations of training, by transformers' estimate (total_flos): 6 per input token and non-embedding
// parameter.
#pragma once

#include <algorithm>

#include "kto/collate/batch.hpp"
#include "kto/model/concept.hpp"

namespace kto {

/// The estimate for one micro-batch. As in transformers, rows count as padded to the longest one, whatever the collator
/// does, so runs are comparable, also with TRL; of an encoder-decoder only the prompts count. Ignores KL pairs, the
/// reference and shared prompts.
template <HasParameters Model>
double estimated_flos(const Model& model, const Sequences& rows) {
  std::int64_t longest = 0, num_parameters = 0;
  if (rows.encoder.empty())
    for (const Segment& segment : rows.segments) longest = std::max(longest, segment.length);
  else
    for (const KeyRange& prompt : rows.prompts) longest = std::max(longest, prompt.length);
  for (const auto& [name, parameter] : model.named_parameters()) num_parameters += parameter.numel();
  if constexpr (KnowsEmbeddings<Model>) num_parameters -= num_embedding_parameters(model);
  return 6.0 * static_cast<double>(rows.num_rows * longest) * static_cast<double>(num_parameters);
}

}  // namespace kto
