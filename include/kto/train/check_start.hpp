// SPDX-License-Identifier: Apache-2.0
// Checks before a run changes anything. A wrong reference would silently train something useless.
#pragma once

#include <map>
#include <string>
#include <utility>

#include "kto/loss/concept.hpp"
#include "kto/reference/concept.hpp"
#include "kto/train/best.hpp"
#include "kto/train/feed/feed.hpp"

namespace kto {

// Shapes: B examples of a micro-batch.

/// Throws Error if a reference that holds a model shares a trained tensor with the policy (it would change, too), or
/// records gradients.
template <class Model, class Reference>
void check_reference(const Model& policy, const Reference& reference) {
  const auto place = [](const Tensor& tensor) {
    return std::pair(tensor.storage().unsafeGetStorageImpl(), tensor.storage_offset());
  };
  std::map<std::pair<c10::StorageImpl*, std::int64_t>, std::string> trained;
  for (const auto& [name, tensor] : policy.named_parameters())
    if (tensor.requires_grad() && tensor.numel() > 0) trained.emplace(place(tensor), name);
  visit_models(reference, [&](const auto& held) {
    for (const auto& [name, tensor] : held.named_parameters()) {
      const auto shared = tensor.numel() > 0 ? trained.find(place(tensor)) : trained.end();
      check(shared == trained.end(), "the reference is the policy itself: they share ",
            shared == trained.end() ? "" : shared->second,
            ", which is trained; create it with kto::live_reference(model)");
      check(!tensor.requires_grad(), "the reference records gradients (", name,
            "); create it with kto::live_reference(model), or freeze it");
    }
  });
}

/// Throws Error if only one of float16 products and loss scaling is on: each needs the other.
template <class Model>
void check_precision(const Model& policy, bool scales_loss) {
  if constexpr (SaysComputeType<Model>)
    check((policy.compute == at::kHalf) == scales_loss, "the model computes in ", policy.compute, ", but fp16 is ",
          scales_loss ? "on" : "off", "; set config.fp16 and model.compute = at::kHalf together");
  for (const auto& [name, tensor] : policy.named_parameters())
    check(!scales_loss || !tensor.requires_grad() || c10::elementSize(tensor.scalar_type()) >= 4, "fp16 trains ", name,
          ", which is ", tensor.scalar_type(), "; expected float32");
}

/// Sets the noise of `config`. Throws Error if the model does not support it.
template <class Model>
void set_noise(Model& model, const TrainConfig& config) {
  if constexpr (TakesNoise<Model>)
    model.neftune_noise_alpha = config.neftune_noise_alpha.value_or(0);
  else
    check(!config.neftune_noise_alpha, "neftune_noise_alpha is set, but your model has no such member");
}

/// Throws Error if `config` weighs a load-balancing loss that the model does not have.
template <class Model>
void check_auxiliary(const Model& model, const TrainConfig& config) {
  bool has_one = false;
  if constexpr (GivesAuxiliary<Model>) has_one = model.auxiliary_coef().has_value();
  check(has_one || config.router_aux_loss_coef.value_or(0) == 0, "router_aux_loss_coef is ",
        config.router_aux_loss_coef.value_or(0),
        ", but this model has no experts with a load-balancing loss; leave the option out");
}

template <class Model, class Reference>
void check_policies(const Model& model, const Reference& reference, const TrainConfig& config) {
  check_reference(model, reference);
  check_precision(model, config.fp16);
  check_auxiliary(model, config);
}

/// Throws Error or UsageError for settings that contradict the loss, the rows or the evaluation sets.
template <class Loss>
void check_settings(const TrainConfig& config, const Feed& feed, const EvaluationSets& eval_sets) {
  check(!Loss::needs.chosen_rejected || (config.desirable_weight == 1 && config.undesirable_weight == 1),
        "desirable_weight and undesirable_weight apply to single rows, but this loss uses pairs: leave both at 1");
  check_best_metric(config, eval_sets);
  if constexpr (Loss::needs.kl_pairs) check_kl_groups(config, feed.batch_sizes(0));
}

/// Throws Error if policy and reference differ on the first micro-batch although one was made from the other.
inline void check_first_logps(const LossInput<Tensor>& in) {
  const Tensor policy_B = in.policy_logp_B.detach();
  const double gap = ((policy_B - in.reference_logp_B).abs() / (in.reference_logp_B.abs() + 1)).max().item<double>();
  check(!(gap >= 1e-3),  // NaN is reported elsewhere, with its rows
        "policy and reference give different log-probs for the first rows (", policy_B[0].item<double>(), " and ",
        in.reference_logp_B[0].item<double>(),
        "), although the reference was made from the policy: one of them has changed since, they compute in different "
        "precisions, or the model has dropout (a module's eval() turns it off, as TRL does)");
}

/// Throws Error if a loss returns something useless for its first micro-batch.
inline void check_first_loss(const LossTerms<Tensor>& terms) {
  check(terms.loss_B.requires_grad(), "the loss returned a loss_B without gradient: it must depend on policy_logp_B");
}

}  // namespace kto
