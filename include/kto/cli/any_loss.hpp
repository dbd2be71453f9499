// SPDX-License-Identifier: Apache-2.0
// A loss and a reference chosen at run time, so that a program compiles a trainer for each kind of batch, not for each
// loss and reference.
#pragma once

#include <tuple>
#include <utility>
#include <variant>

#include "kto/loss/concept.hpp"
#include "kto/model/decoder.hpp"
#include "kto/nn/cast_each_time.hpp"
#include "kto/reference/reused.hpp"
#include "kto/reference/synced.hpp"

namespace kto::cli {

/// Whether both losses need the same of a batch.
template <class Loss, class Other>
inline constexpr bool need_alike =
    Loss::needs.kl_pairs == Other::needs.kl_pairs && Loss::needs.chosen_rejected == Other::needs.chosen_rejected;

/// One of several losses that need the same of a batch.
template <class Loss, class... Others>
struct AnyLoss {
  static constexpr BatchParts needs = Loss::needs;
  static_assert((need_alike<Loss, Others> && ...));
  std::variant<Loss, Others...> chosen;

  LossTerms<Tensor> operator()(const LossInput<Tensor>& in) const {
    return std::visit([&](const auto& loss) -> LossTerms<Tensor> { return loss(in); }, chosen);
  }
  void observe(const LossInput<Tensor>& in) {
    const auto observes = [&]<class One>(One& loss) {
      if constexpr (Observes<One, Tensor>) loss.observe(in);
    };
    std::visit(observes, chosen);
  }
  NamedScalars<Tensor> metrics(const LossInput<Tensor>& in, const LossTerms<Tensor>& terms) const {
    const auto reports = [&]<class One>(const One& loss) -> NamedScalars<Tensor> {
      if constexpr (ReportsMetrics<One, Tensor>) return loss.metrics(in, terms);
      return {};
    };
    return std::visit(reports, chosen);
  }
  template <class Archive>
  void visit_state(Archive& archive) {
    const auto lists = [&]<class One>(One& loss) {
      if constexpr (HasState<One>) loss.visit_state(archive);
    };
    std::visit(lists, chosen);
  }
  /// A run goes on with the loss that was chosen, whatever others the program offers: see policy_text.
  template <class Visit>
  decltype(auto) visit_chosen(const Visit& visit) const {
    return std::visit(visit, chosen);
  }
};

namespace list {
template <class Tuple>
struct Any;
template <class... Losses>
struct Any<std::tuple<Losses...>> {
  using type = AnyLoss<Losses...>;
};
template <class Like, class Loss>
using If = std::conditional_t<need_alike<Like, Loss>, std::tuple<Loss>, std::tuple<>>;
}  // namespace list

/// Those of `Losses` that need what `Loss` does.
template <class Loss, class... Losses>
using AnyLossLike = typename list::Any<decltype(std::tuple_cat(std::declval<list::If<Loss, Losses>>()...))>::type;

/// A reference that holds a model: as it was, or moved towards the policy by `share` every `every` updates.
struct HeldReference {
  Decoder model;
  bool starts_as_policy = false;  ///< see LiveReference
  double share = 0;               ///< 0: it stays
  std::int64_t every = 1;

  ReferenceLogps log_probs(const Decoder& policy, const Batch& batch) const {
    const LiveReference<Decoder> live{model};
    if (!model.mapped) return live.log_probs(policy, batch);
    model.mapped->check_unchanged();
    const CastEachTime each_time;
    return live.log_probs(policy, batch);
  }
  bool is_frozen() const { return share == 0; }
  void follow(const Decoder& policy, std::int64_t step) {
    if (share > 0) moving().follow(policy, step);
  }
  template <class Archive>
  void visit_state(Archive& archive, const Decoder& policy) {
    if (share > 0) moving().visit_state(archive, policy);
  }

 private:
  SyncedReference<Decoder> moving() const { return {.model = model, .alpha = share, .every = every}; }
};

}  // namespace kto::cli
