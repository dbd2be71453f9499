// SPDX-License-Identifier: Apache-2.0
// The contract of a model: parameters to train, and either hidden states with a head (then logits are computed chunk by
// chunk and never held whole) or plain logits.
#pragma once

#include <concepts>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kto/collate/batch.hpp"
#include "kto/core/error.hpp"
#include "kto/core/member_names.hpp"
#include "kto/dist/world.hpp"
#include "kto/nn/head.hpp"

namespace kto {

// Shapes: N tokens of a batch in one row, D width, V vocabulary.

/// Tensors and their names, in the model's order.
using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

/// `model.named_parameters()` returns the live tensors under unique names; those with requires_grad are trained.
template <class Model>
concept HasParameters = requires(const Model& model) {
  { model.named_parameters() } -> std::convertible_to<NamedTensors>;
};

/// The device of a model: that of its first parameter.
template <HasParameters Model>
at::Device device_of(const Model& model) {
  const NamedTensors parameters = model.named_parameters();
  check(!parameters.empty(), "the model has no parameters");
  return parameters.front().second.device();
}

/// `model.hidden(sequences)` returns the [N, D] states before the head, `model.head()` the head. Where
/// sequences.needed_S is given, nobody looks at the other rows.
template <class Model>
concept GivesHidden = requires(const Model& model, const Sequences& sequences) {
  { model.hidden(sequences) } -> std::same_as<Tensor>;
  { model.head() } -> std::same_as<Head>;
};

/// Optional: `model.hidden(sequences, {}, &prefix)` also keeps the keys and values with which `model.hidden(tails,
/// prefix)` runs tokens that follow those of `sequences`, or of its tokens tails.prefix_P. has_steady_prefix(batch) says
/// whether that gives the same numbers as running each sequence of the batch whole.
template <class Model>
concept KeepsPrefix = GivesHidden<Model> && requires(const Model& model, const Sequences& sequences,
                                                     const SharedPrompts& batch, typename Model::Prefix& prefix) {
  { model.hidden(sequences, prefix, &prefix) } -> std::same_as<Tensor>;
  { model.has_steady_prefix(batch) } -> std::same_as<bool>;
};

/// Optional: `share_weights(model, world, cuts_inside)` puts the model's parameters into units of `world` (kto/dist/
/// shared_out.hpp), and its passes fetch them: what zero_stage 3 needs. Decoder has it.
template <class Model>
concept SharesWeights = requires(const Model& model, const World& world) { share_weights(model, world, true); };

/// What a pass over rows gives besides their states.
struct Trace {
  Tensor auxiliary;  ///< a loss of the pass itself, a scalar with gradient; undefined without
};

/// Optional: `model.hidden(sequences, {}, kept, &trace)` also gives the load-balancing loss of the model's experts.
/// model.auxiliary_coef() is how much of it is usually added to the loss; none: this model has no such loss.
template <class Model>
concept GivesAuxiliary = KeepsPrefix<Model> && requires(const Model& model, const Sequences& sequences,
                                                        typename Model::Prefix& prefix, Trace& trace) {
  { model.hidden(sequences, prefix, &prefix, &trace) } -> std::same_as<Tensor>;
  { model.auxiliary_coef() } -> std::same_as<std::optional<double>>;
};

/// `model.logits(sequences)` returns the [N, V] logits.
template <class Model>
concept GivesLogits = requires(const Model& model, const Sequences& sequences) {
  { model.logits(sequences) } -> std::same_as<Tensor>;
};

/// Optional: describe(model) is a text of everything besides the parameters that its numbers depend on. If it differs,
/// runs are not resumed and cached log-probs are not used.
template <class Model>
concept DescribesItself = requires(const Model& model) {
  { describe(model) } -> std::convertible_to<std::string>;
};

/// Optional: `model.written_parts(name, tensor)` are the tensors of the model's saved files that hold a parameter, with
/// their names there, as views of it: several where files hold it in parts.
template <class Model>
concept NamesFiles = requires(const Model& model, const std::string& name, const Tensor& tensor) {
  { model.written_parts(name, tensor) } -> std::same_as<std::vector<std::pair<std::string, Tensor>>>;
};
/// Model::written_name, where the model has it, or `name`.
template <class Model>
std::vector<std::pair<std::string, Tensor>> parts_in_files(const Model& model, const std::string& name,
                                                           const Tensor& tensor) {
  if constexpr (NamesFiles<Model>) return model.written_parts(name, tensor);
  return {{name, tensor}};
}

/// Optional: num_embedding_parameters(model) is the number of parameters that are only looked up, never multiplied.
template <class Model>
concept KnowsEmbeddings = requires(const Model& model) {
  { num_embedding_parameters(model) } -> std::same_as<std::int64_t>;
};

/// Optional: `at::ScalarType compute` is the type of the model's products. The trainer checks that it is kHalf exactly
/// when loss scaling (fp16) is on.
template <class Model>
concept SaysComputeType = requires(const Model& model) {
  { (model.compute) } -> std::same_as<const at::ScalarType&>;
};

/// Optional: `double neftune_noise_alpha` is the scale of the noise that the model adds to its embeddings in training
/// (arXiv:2310.05914); 0: none. The trainer sets it to the option of that name, and refuses the option for a model
/// without it.
template <class Model>
concept TakesNoise = requires(Model& model) {
  { (model.neftune_noise_alpha) } -> std::same_as<double&>;
};

namespace detail {
struct ModelHooks {
  int neftune_noise_alpha;
};
}  // namespace detail

/// A model that has a member of that name. It must match the contract above.
template <class Model>
concept NamesNoise =
    detail::CanBeBase<Model> && !requires { &detail::WithNames<Model, detail::ModelHooks>::neftune_noise_alpha; };

/// The contract of a model: parameters, and hidden states with a head, or logits.
template <class Model>
concept ModelPolicy = HasParameters<Model> && (GivesHidden<Model> || GivesLogits<Model>);

}  // namespace kto
