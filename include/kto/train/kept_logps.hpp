// SPDX-License-Identifier: Apache-2.0
// References that keep the log-probs of rows: which rows a run has, and when nothing else will be asked.
#pragma once

#include <span>
#include <vector>

#include "kto/core/memory.hpp"
#include "kto/reference/concept.hpp"
#include "kto/train/evaluation_sets.hpp"
#include "kto/train/feed/feed.hpp"

namespace kto {

/// Names the rows of a run to its reference. `rows` are empty for a stream.
template <class Reference>
void name_rows(Reference& reference, std::span<const Example> rows, const EvaluationSets& eval_sets) {
  if constexpr (KeepsLogps<Reference>) {
    std::vector<std::span<const Example>> sets;
    for (const EvaluationSet& set : eval_sets) sets.push_back(set.rows);
    reference.begin_run(rows, sets);
  }
}

/// Gives the reference log-probs of `batch` that it was not asked for.
template <class Reference>
void keep_logps(const Reference& reference, const Batch& batch, const ReferenceLogps& logps) {
  if constexpr (KeepsLogps<Reference>) reference.keep(batch, logps);
}

/// Lets the reference's model go if it has said all that the epochs from `epoch` on and the evaluations ask for.
template <class Loss, class Reference>
void let_go_if_done(Reference& reference, const Feed& feed, std::int64_t epoch, const Plan& plan,
                    const TrainConfig& config, const EvaluationSets& eval_sets, at::Device device) {
  if constexpr (KeepsLogps<Reference>) {
    const auto knows = [&](const std::vector<Picks>& batches) {
      return reference.is_done_with(batches, Loss::needs.kl_pairs);
    };
    const bool same_order = config.train_sampling_strategy == SamplingStrategy::sequential;
    for (std::int64_t e = epoch; e < (same_order ? epoch + 1 : plan.num_epochs); ++e)
      if (const auto picks = feed.picks(e); !picks || !knows(*picks)) return;
    for (const EvaluationSet& set : eval_sets)
      if (!knows(feed.share.own(eval_picks(set.rows, config, Loss::needs.chosen_rejected)))) return;
    reference.let_go();
    release_cached_memory(device);
  }
}

}  // namespace kto
