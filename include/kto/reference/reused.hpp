// SPDX-License-Identifier: Apache-2.0
// Reused reference: another reference, asked once about each row. A frozen reference gives the same log-probs in every
// epoch, so those of a row's first visit are kept, and its model is let go once nothing else will be asked. Where
// batches repeat (sequential order, evaluations) the numbers are the same to the last bit; where only rows do, to
// rounding: a row then has the log-probs of its first batch, and a KL pair with a new partner is computed by itself.
// Use it for runs of more than one epoch or evaluation, with a collator that makes the same of a row each time.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kto/reference/logp_table.hpp"

namespace kto {

/// Made by reused(). Copies share the reference and what is known.
template <SaysFrozen Inner>
struct ReusedReference {
  static_assert(!IdentifiesItself<Inner>, "kto: a reference with an identity of its own keeps its log-probs itself");
  static constexpr bool fixes_kl_pairs = FixesKlPairs<Inner>;

  std::shared_ptr<std::optional<Inner>> held;  ///< nothing once it was let go
  std::function<Inner()> make_again = {};      ///< the same once more, for rows not seen yet; empty: it is never let go
  bool starts_as_policy = false;               ///< see LiveReference
  bool reuses = true;                          ///< false: everything is asked each time
  bool reuses_training_rows = true;            ///< false: only those of evaluations, whose batches repeat in any order
  std::shared_ptr<LogpTable> table = std::make_shared<LogpTable>();  ///< what is known, shared by copies

  template <class Policy>
  ReferenceLogps log_probs(const Policy& policy, const Batch& batch) const {
    if (!reuses) return inner().log_probs(policy, batch);
    ReferenceLogps logps = table->find(batch);
    const bool has_pairs = !batch.kl_rows || logps.kl_logp_B.defined();
    if (logps.logp_B.defined() && has_pairs) return logps;
    if (logps.logp_B.defined()) {
      Batch pairs;  // no picks: these are no rows that a reference could look up
      pairs.rows = *batch.kl_rows;
      pairs.sign_B = batch.sign_B;
      pairs.num_chosen = batch.num_chosen;
      logps.kl_logp_B = inner().log_probs(policy, pairs).logp_B;
    } else {
      logps = inner().log_probs(policy, batch);
    }
    table->keep(batch, logps);
    return logps;
  }

  /// Before a run over `rows` (none: a stream), evaluated on `sets`. Forgets what it knows.
  void begin_run(std::span<const Example> rows, const std::vector<std::span<const Example>>& sets) {
    (void)inner();
    *table = {};
    if (!reuses) return;
    table->add(reuses_training_rows ? rows : std::span<const Example>());
    for (const auto& set : sets) table->add(set);
  }
  /// Keeps `logps` of `batch` as if it had been asked for them.
  void keep(const Batch& batch, const ReferenceLogps& logps) const {
    if (reuses) table->keep(batch, logps);
  }
  /// Whether it holds a model that it could let go, and knows everything about `batches`.
  bool is_done_with(std::span<const std::vector<Pick>> batches, bool with_kl) const {
    return reuses && make_again && *held && std::ranges::all_of(batches, [&](const std::vector<Pick>& picks) {
             return std::ranges::all_of(picks, [&](const Pick& pick) { return table->knows(pick, with_kl); });
           });
  }
  /// Lets the reference go. It is made again for rows that are not known.
  void let_go() { held->reset(); }

  template <class Policy>
  void follow(const Policy& policy, std::int64_t step) {
    if constexpr (FollowsPolicy<Inner, Policy>)
      if (!reuses) (*held)->follow(policy, step);
  }
  template <class Archive, class Policy>
  void visit_state(Archive& archive, const Policy& policy) {
    if constexpr (ReferenceHasState<Inner, Policy>)
      if (*held) (*held)->visit_state(archive, policy);
    if (reuses) table->visit_state(archive);
  }
  template <class Visit>
  void visit_models(const Visit& visit) const {
    if (*held) kto::visit_models(**held, visit);
  }
  /// A run may go on with or without reuse: see policy_text.
  template <class Visit>
  decltype(auto) visit_chosen(const Visit& visit) const {
    return visit(inner());
  }

 private:
  const Inner& inner() const {
    if (!*held) *held = make_again();
    return **held;
  }
};

/// Reuses the log-probs of `reference` if it is frozen; else asks it each time. With `make_again`, which gives the same
/// reference once more, the model is let go when nothing else will be asked; hold no other copy of it then.
template <SaysFrozen Inner>
ReusedReference<Inner> reused(Inner reference, std::function<Inner()> make_again = {}) {
  const bool is_frozen = reference.is_frozen();
  bool starts_as_policy = false;
  if constexpr (SaysStartsAsPolicy<Inner>) starts_as_policy = reference.starts_as_policy;
  return {.held = std::make_shared<std::optional<Inner>>(std::move(reference)),
          .make_again = std::move(make_again),
          .starts_as_policy = starts_as_policy,
          .reuses = is_frozen};
}

}  // namespace kto
