// SPDX-License-Identifier: Apache-2.0
// Floating-point operations of training, as transformers estimates them (total_flos): 6 for each input token and each
// parameter beside the embeddings.
#pragma once

#include <algorithm>

#include "kto/collate/batch.hpp"
#include "kto/model/concept.hpp"

namespace kto {

/// Of one micro-batch. Tokens are counted as transformers counts them, padded to the longest row, whatever the collator
/// makes of padding: so runs compare, with TRL's too. KL pairs, the reference and shared prompts are not looked at.
template <HasParameters Model>
double estimated_flos(const Model& model, const Sequences& rows) {
  std::int64_t longest = 0, num_parameters = 0;
  for (const Segment& segment : rows.segments) longest = std::max(longest, segment.length);
  for (const auto& [name, parameter] : model.named_parameters()) num_parameters += parameter.numel();
  if constexpr (KnowsEmbeddings<Model>) num_parameters -= num_embedding_parameters(model);
  return 6.0 * static_cast<double>(rows.num_rows * longest) * static_cast<double>(num_parameters);
}

}  // namespace kto
