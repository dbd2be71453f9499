// SPDX-License-Identifier: Apache-2.0
// The contract of a model: parameters to train, and either hidden states with a head (logits are then made chunk by
// chunk and never held whole) or plain logits.
#pragma once

#include <concepts>
#include <string>
#include <utility>
#include <vector>

#include "kto/collate/batch.hpp"
#include "kto/core/error.hpp"
#include "kto/core/member_names.hpp"
#include "kto/nn/head.hpp"

namespace kto {

// Shapes: N tokens of a batch in one row, D width, V vocabulary.

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

/// `model.named_parameters()` gives the live tensors under unique names; those with requires_grad are trained.
template <class Model>
concept HasParameters = requires(const Model& model) {
  { model.named_parameters() } -> std::convertible_to<NamedTensors>;
};

/// Where a model computes: the device of its first parameter.
template <HasParameters Model>
at::Device device_of(const Model& model) {
  const NamedTensors parameters = model.named_parameters();
  check(!parameters.empty(), "the model has no parameters");
  return parameters.front().second.device();
}

/// `model.hidden(sequences)` gives the [N, D] states before the head, `model.head()` the head.
template <class Model>
concept GivesHidden = requires(const Model& model, const Sequences& sequences) {
  { model.hidden(sequences) } -> std::same_as<Tensor>;
  { model.head() } -> std::same_as<Head>;
};

/// Optional: `model.hidden(sequences, {}, &prefix)` also keeps what `model.hidden(tails, prefix)` needs to run tokens
/// that follow those of `sequences`; has_steady_prefix(batch) says whether that is the same as running each sequence of
/// the batch whole.
template <class Model>
concept KeepsPrefix = GivesHidden<Model> && requires(const Model& model, const Sequences& sequences,
                                                     const SharedPrompts& batch, typename Model::Prefix& prefix) {
  { model.hidden(sequences, prefix, &prefix) } -> std::same_as<Tensor>;
  { model.has_steady_prefix(batch) } -> std::same_as<bool>;
};

/// `model.logits(sequences)` gives the [N, V] logits.
template <class Model>
concept GivesLogits = requires(const Model& model, const Sequences& sequences) {
  { model.logits(sequences) } -> std::same_as<Tensor>;
};

/// Optional: describe(model) is text of all that its numbers depend on beside the parameters; a run is not resumed, and
/// log-probs are not taken from a cache, where it differs.
template <class Model>
concept DescribesItself = requires(const Model& model) {
  { describe(model) } -> std::convertible_to<std::string>;
};

/// Optional: num_embedding_parameters(model) says how many numbers of its parameters are looked up and never
/// multiplied.
template <class Model>
concept KnowsEmbeddings = requires(const Model& model) {
  { num_embedding_parameters(model) } -> std::same_as<std::int64_t>;
};

/// Optional: `at::ScalarType compute` is the type that the model multiplies in. The trainer checks it: kHalf goes with
/// loss scaling (fp16), and with that alone.
template <class Model>
concept SaysComputeType = requires(const Model& model) {
  { (model.compute) } -> std::same_as<const at::ScalarType&>;
};

/// Optional: `double neftune_noise_alpha` is the scale of the noise that the model adds to its embeddings while it
/// trains (arXiv:2310.05914), 0 for none. The trainer sets it to the option of that name, and refuses the option for a
/// model without it.
template <class Model>
concept TakesNoise = requires(Model& model) {
  { (model.neftune_noise_alpha) } -> std::same_as<double&>;
};

namespace detail {
struct ModelHooks {
  int neftune_noise_alpha;
};
}  // namespace detail

/// A model has a member of that name: it must match the contract above.
template <class Model>
concept NamesNoise =
    detail::CanBeBase<Model> && !requires { &detail::WithNames<Model, detail::ModelHooks>::neftune_noise_alpha; };

template <class Model>
concept ModelPolicy = HasParameters<Model> && (GivesHidden<Model> || GivesLogits<Model>);

}  // namespace kto
