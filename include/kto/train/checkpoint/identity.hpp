// SPDX-License-Identifier: Apache-2.0
// The identity of a run: options, rows, starting weights, policies. A checkpoint records it, and a resumed run is
// compared with it (kto/train/checkpoint/run_changes.hpp).
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/reference/concept.hpp"
#include "kto/train/checkpoint/policy_text.hpp"
#include "kto/train/evaluation_sets.hpp"
#include "kto/train/feed/stream_rows.hpp"

namespace kto {

namespace detail {

inline std::string rows_hash(std::span<const Example> rows) {
  ContentHash hash;
  for (const Example& row : rows) add_row(hash, row);
  return hash.hex();
}

/// Replaces the hash of rows that are compared while they are read (kto/train/feed/stream_rows.hpp).
inline constexpr const char* streamed_rows = "streamed";

/// A hash (of no rows, if there is no set), or {name: hash}.
inline Json evaluation_hash(const EvaluationSets& sets) {
  if (!sets.has_names()) return rows_hash(sets.empty() ? std::span<const Example>() : sets.begin()->rows);
  Json out = Json::object();
  for (const EvaluationSet& set : sets) out[set.name] = rows_hash(set.rows);
  return out;
}

template <HasParameters Model>
std::string shapes_hash(const Model& model) {
  ContentHash hash;
  for (const auto& [name, tensor] : model.named_parameters())
    hash.add(concat(name, ' ', tensor.scalar_type(), tensor.sizes(), tensor.requires_grad()));
  return hash.hex();
}

/// A model's description besides its parameters.
template <class Model>
std::string own_description(const Model& model) {
  if constexpr (DescribesItself<Model>) return describe(model);
  return "";
}
template <class Reference>
std::string reference_description(const Reference& reference) {
  std::string out;
  visit_models(reference, [&](const auto& model) { out += own_description(model); });
  return out;
}

/// A hash of the weights of all models in the reference and of its own identity; empty if it has neither.
template <class Reference>
std::string reference_hash(const Reference& reference, std::span<const Example> rows) {
  std::string out;
  visit_models(reference, [&](const auto& model) { out += weights_hash(model); });
  if constexpr (IdentifiesItself<Reference>) out += reference.identity(rows);
  return out;
}

/// The reference, except what reference_hash and reference_description cover.
template <class Reference>
PolicyText reference_text(const Reference& reference) {
  if constexpr (IdentifiesItself<Reference>) return {type_text<Reference>(), true};
  std::vector<ObjectPlace> models;
  visit_models(reference, [&](const auto& model) { models.push_back(place_of(model)); });
  return policy_text(reference, std::move(models));
}

}  // namespace detail

/// The identity of a run whose model has not been trained yet. `options` and `files` ({path: hash} of the training
/// rows) are the program's. "cannot_tell" lists policies with parts that cannot be compared.
template <class Model, class Collator, class Loss, class Reference, class Optimizer>
Json run_identity(const Model& model, const Collator& collator, const Loss& loss, const Reference& reference,
                  const Optimizer& optimizer, std::span<const Example> rows, const EvaluationSets& eval_sets,
                  const Json& options, const Json& files) {
  Json policies = Json::object(), cannot_tell = Json::array();
  const auto add = [&](const char* slot, const PolicyText& policy) {
    policies[slot] = policy.text;
    if (!policy.is_whole) cannot_tell.push_back(slot);
  };
  add("loss", policy_text(loss));
  add("reference", detail::reference_text(reference));
  add("collator", policy_text(collator));
  add("optimizer", policy_text(optimizer));
  return {{"options", options},
          {"files", files},
          {"rows",
           {{"train", rows.empty() ? detail::streamed_rows : detail::rows_hash(rows)},
            {"evaluation", detail::evaluation_hash(eval_sets)}}},
          {"parameters", detail::shapes_hash(model)},
          {"weights", detail::weights_hash(model)},
          {"reference", detail::reference_hash(reference, rows)},
          {"description",
           {{"model", detail::own_description(model)}, {"reference", detail::reference_description(reference)}}},
          {"policies", std::move(policies)},
          {"cannot_tell", std::move(cannot_tell)}};
}

}  // namespace kto
