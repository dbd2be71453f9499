// SPDX-License-Identifier: Apache-2.0
// The log-probs of rows in one call, for code that has a model and rows but no batches: to rank completions, to look at
// a model before and after training, to fill a table for a reference of one's own. Training does not come this way.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "kto/collate/concept.hpp"
#include "kto/collate/encoder_decoder.hpp"
#include "kto/collate/packed.hpp"
#include "kto/collate/padded.hpp"
#include "kto/core/interrupt.hpp"
#include "kto/logprob/completion.hpp"

namespace kto {

// Shapes: B examples.

/// The log-prob of each example's completion after its prompt, under `model`: [B], float64, on the CPU, in nats, without
/// gradient. It is the sum over the completion's tokens that `collator` keeps. `rows_per_batch` rows run at once. Throws
/// Error if a token id is outside the model's vocabulary or the model's output has an unexpected shape, and Interrupted
/// between batches.
template <ModelPolicy Model, CollatorPolicy Collator>
Tensor log_probs(const Model& model, std::span<const Example> examples, const Collator& collator,
                 std::size_t rows_per_batch = 8) {
  static_assert(
      FeedsModel<Collator, Model>,
      "kto: this model needs padded rows: pass kto::PaddedCollator{} to log_probs, or leave the collator out");
  check(rows_per_batch > 0, "log_probs: rows_per_batch is 0, expected 1 or more");
  const at::NoGradGuard no_grad;
  const at::Device device = device_of(model);
  const Tensor out_B = at::zeros({static_cast<std::int64_t>(examples.size())}, at::kDouble);
  for (std::size_t begin = 0; begin < examples.size(); begin += rows_per_batch) {
    check_interrupt();
    std::vector<Pick> picks;
    for (const Example& example : examples.subspan(begin, std::min(rows_per_batch, examples.size() - begin)))
      picks.push_back({.example = &example});
    const Batch batch = to_device(collator(picks, /*with_kl=*/false), device);
    const Tensor logp_b = score_batch(model, batch, /*with_kl=*/false).rows.logp_B;
    out_B.narrow(0, static_cast<std::int64_t>(begin), logp_b.size(0)).copy_(logp_b);
  }
  return out_B;
}

/// The same for whole rows, with the collator that suits the model: PackedCollator, PaddedCollator for a module or
/// function of one's own, EncoderDecoderCollator for an encoder-decoder.
template <ModelPolicy Model>
Tensor log_probs(const Model& model, std::span<const Example> examples) {
  if constexpr (requires { model.spec.encoder.front().start_token_id; }) {
    if (!model.spec.encoder.empty())
      return log_probs(model, examples, EncoderDecoderCollator{model.spec.encoder.front().start_token_id});
  }
  if constexpr (FeedsModel<PackedCollator, Model>)
    return log_probs(model, examples, PackedCollator{.max_length = std::nullopt});
  else
    return log_probs(model, examples, PaddedCollator{.max_length = std::nullopt});
}

}  // namespace kto
