// SPDX-License-Identifier: Apache-2.0
// The evaluation rows of a run: one set, or several named sets (a dict as transformers' eval_dataset). The metrics of a
// set "data1" are eval_data1_loss and so on.
#pragma once

#include <algorithm>
#include <concepts>
#include <initializer_list>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kto/core/error.hpp"
#include "kto/data/example.hpp"

namespace kto {

/// Rows to evaluate on, with a name where there are several sets.
struct EvaluationSet {
  std::string name;               ///< empty: a single set, whose metrics have no name in them
  std::span<const Example> rows;  ///< the caller's; they must outlive the call

  /// The prefix of the set's metrics, after "eval_".
  std::string prefix() const { return name.empty() ? "" : name + "_"; }
};

/// The sets, in order of evaluation. Refers to the caller's rows.
///   trainer.train(rows, eval_rows);
///   trainer.train(rows, {{"chat", chat_rows}, {"code", code_rows}});
class EvaluationSets {
 public:
  EvaluationSets() = default;
  /// One set without a name; no set if there are no rows.
  template <class Rows>
    requires std::convertible_to<const Rows&, std::span<const Example>>
  EvaluationSets(const Rows& rows) {  // NOLINT(google-explicit-constructor): rows convert to a set
    if (const std::span<const Example> all = rows; !all.empty()) sets_.push_back({"", all});
  }
  /// Throws UsageError for a set without a name or rows, and for duplicate names.
  EvaluationSets(std::initializer_list<EvaluationSet> sets) : EvaluationSets(std::vector(sets)) {}
  /// Throws UsageError likewise.
  explicit EvaluationSets(std::vector<EvaluationSet> sets) : sets_(std::move(sets)) {
    for (auto set = sets_.begin(); set != sets_.end(); ++set) {
      if (set->name.empty()) throw UsageError("evaluation sets: a set has no name");
      if (set->rows.empty()) throw UsageError(concat("evaluation sets: ", set->name, " has no rows"));
      if (std::any_of(sets_.begin(), set, [&](const EvaluationSet& other) { return other.name == set->name; }))
        throw UsageError(concat("evaluation sets: the name ", set->name, " occurs twice"));
    }
  }

  /// The first set.
  auto begin() const { return sets_.begin(); }
  /// Past the last set.
  auto end() const { return sets_.end(); }
  /// Whether there are no sets.
  bool empty() const { return sets_.empty(); }
  /// Whether the sets have names.
  bool has_names() const { return !sets_.empty() && !sets_.front().name.empty(); }

 private:
  std::vector<EvaluationSet> sets_;
};

}  // namespace kto
