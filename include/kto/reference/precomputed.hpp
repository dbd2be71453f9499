// SPDX-License-Identifier: Apache-2.0
// Precomputed reference: the log-probs of all rows and their KL pairs are computed in one pass before training, so the
// reference model need not stay in memory. A row's KL partner is then fixed, whatever the order of visits: it is the
// one from sequential order. For rows that were not precomputed, the reference is loaded again. Use it for long runs
// with little memory, and for several runs over the same rows (see cache.hpp).
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kto/collate/concept.hpp"
#include "kto/core/interrupt.hpp"
#include "kto/io/content_hash.hpp"
#include "kto/reference/live.hpp"
#include "kto/reference/logp_table.hpp"

namespace kto {

template <ModelPolicy Model>
struct PrecomputedReference {
  static constexpr bool fixes_kl_pairs = true;

  /// Creates the reference, for rows without an entry; it is freed after the call that needed it.
  std::function<LiveReference<Model>()> make_reference;
  std::shared_ptr<LogpTable> table = std::make_shared<LogpTable>();  ///< the log-probs, shared by copies

  /// The log-probs of `batches` of picks, in order. Calls `progress(done, total)` after each batch. Throws Interrupted
  /// between batches.
  template <CollatorPolicy Collator>
  std::vector<RowLogps> compute(std::span<const std::vector<Pick>> batches, const Collator& collator, bool with_kl,
                                const std::function<void(std::int64_t, std::int64_t)>& progress = nullptr) const {
    const LiveReference<Model> reference = make_reference();
    const at::Device device = device_of(reference.model);
    std::vector<RowLogps> out;
    for (std::size_t i = 0; i < batches.size(); ++i) {
      check_interrupt();
      const Batch batch = to_device(collator(batches[i], with_kl), device);
      const ReferenceLogps logps = reference.log_probs(reference.model, batch);
      const Tensor logp_B = logps.logp_B.to(at::kDouble).cpu();
      const Tensor kl_logp_B = with_kl ? logps.kl_logp_B.to(at::kDouble).cpu() : at::zeros_like(logp_B);
      for (std::int64_t b = 0; b < logp_B.size(0); ++b)
        out.push_back({logp_B[b].item<double>(), kl_logp_B[b].item<double>()});
      if (progress) progress(static_cast<std::int64_t>(i + 1), static_cast<std::int64_t>(batches.size()));
    }
    return out;
  }

  /// Adds the log-probs of `batches` of `rows` from compute(). The rows must not move in memory.
  void fill(std::span<const Example> rows, std::span<const std::vector<Pick>> batches,
            std::span<const RowLogps> logps) const {
    table->add(rows);
    std::size_t at = 0;
    for (const auto& batch : batches)
      for (const Pick& pick : batch) {
        const RowLogps& of = logps[at++];
        table->put(pick, of.logp, of.kl_logp);
      }
  }

  /// A hash of the log-probs of `rows` that are in the table.
  std::string identity(std::span<const Example> rows) const {
    ContentHash hash;
    for (const Example& row : rows)
      if (const auto found = table->find(row)) {
        const std::array logps{found->logp, found->kl_logp};
        hash.add(std::span<const double>(logps));
      }
    return hash.hex();
  }

  ReferenceLogps log_probs(const Model& policy, const Batch& batch) const {
    ReferenceLogps logps = table->find(batch);
    const bool is_whole = logps.logp_B.defined() && (!batch.kl_rows || logps.kl_logp_B.defined());
    return is_whole ? logps : make_reference().log_probs(policy, batch);
  }
};

}  // namespace kto
