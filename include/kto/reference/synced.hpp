// SPDX-License-Identifier: Apache-2.0
// References that follow the policy: moved towards it every few updates (TR-DPO, arXiv:2404.09656, equation 5), or an
// exponential moving average of it. Use them when a fixed reference holds a long run back. With an adapter, only the
// adapter's matrices move; the base is shared and fixed.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "kto/reference/live.hpp"

namespace kto {

/// Pairs of a reference's parameter and the policy's parameter that it follows, for everything the policy trains.
/// Throws Error unless the two have the same parameters, by name and shape.
template <ModelPolicy Model>
std::vector<std::pair<Tensor, Tensor>> followed_parameters(const Model& reference, const Model& policy) {
  std::map<std::string, Tensor> held;
  for (const auto& [name, tensor] : reference.named_parameters()) held.emplace(name, tensor);
  std::vector<std::pair<Tensor, Tensor>> out;
  for (const auto& [name, tensor] : policy.named_parameters()) {
    const auto found = held.find(name);
    check(found != held.end() && found->second.sizes() == tensor.sizes(),
          "the reference cannot follow the policy: it has no ", name, " of shape ", shape_text(tensor.sizes()),
          "; make it with frozen_copy(policy), or use a model with the same parameters");
    if (tensor.requires_grad()) out.emplace_back(found->second, tensor);
    held.erase(found);
  }
  check(held.empty(), "the reference cannot follow the policy, which has no ", held.empty() ? "" : held.begin()->first,
        "; make it with frozen_copy(policy), or use a model with the same parameters");
  return out;
}

namespace detail {

/// reference = share * policy + (1 - share) * reference, for every parameter that the policy trains.
template <ModelPolicy Model>
void mix_into(const Model& reference, const Model& policy, double share) {
  const at::NoGradGuard no_grad;
  for (auto& [held, tensor] : followed_parameters(reference, policy)) {
    Tensor now = present(tensor).detach().to(held.scalar_type());
    if (unit_of(tensor) != nullptr && unit_of(held) != nullptr) now = now.clone();  // two units are not here at once
    present(held);
    if (share == 1)
      held.copy_(now);
    else
      held.lerp_(now, share);
    keep_own_part(held);
  }
}

/// The parameters that follow the policy, for a checkpoint.
template <class Archive, ModelPolicy Model>
void visit_followers(Archive& archive, const Model& reference, const Model& policy) {
  std::set<std::string> followed;
  for (const auto& [name, tensor] : policy.named_parameters())
    if (tensor.requires_grad()) followed.insert(name);
  for (auto& [name, tensor] : reference.named_parameters())
    if (followed.contains(name)) archive(name, tensor);
}

}  // namespace detail

/// Every `every` updates: reference = alpha * policy + (1 - alpha) * reference.
template <ModelPolicy Model>
struct SyncedReference {
  Model model;               ///< frozen_copy(policy), or another model with the same parameters
  double alpha = 0.6;        ///< TRL's ref_model_mixup_alpha
  std::int64_t every = 512;  ///< TRL's ref_model_sync_steps

  ReferenceLogps log_probs(const Model& policy, const Batch& batch) const {
    return LiveReference<Model>{model}.log_probs(policy, batch);
  }
  void follow(const Model& policy, std::int64_t step) {
    if (step % every == 0) detail::mix_into(model, policy, alpha);
  }
  template <class Visit>
  void visit_models(const Visit& visit) const {
    visit(model);
  }
  template <class Archive>
  void visit_state(Archive& archive, const Model& policy) {
    detail::visit_followers(archive, model, policy);
  }
};

/// After every update: reference = decay * reference + (1 - decay) * policy.
template <ModelPolicy Model>
struct EmaReference {
  Model model;          ///< frozen_copy(policy), or another model with the same parameters
  double decay = 0.99;  ///< how much of the average stays at each update, from 0 to 1

  ReferenceLogps log_probs(const Model& policy, const Batch& batch) const {
    return LiveReference<Model>{model}.log_probs(policy, batch);
  }
  void follow(const Model& policy, std::int64_t) { detail::mix_into(model, policy, 1 - decay); }
  template <class Visit>
  void visit_models(const Visit& visit) const {
    visit(model);
  }
  template <class Archive>
  void visit_state(Archive& archive, const Model& policy) {
    detail::visit_followers(archive, model, policy);
  }
};

}  // namespace kto
