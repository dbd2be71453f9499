// SPDX-License-Identifier: Apache-2.0
// The modules of a decoder that have parameters: what they hold.
#pragma once

#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "kto/model/spec.hpp"
#include "kto/nn/causal_conv.hpp"
#include "kto/nn/experts.hpp"
#include "kto/nn/linear.hpp"
#include "kto/nn/norm.hpp"
#include "kto/nn/xielu.hpp"

namespace kto {

// Shapes: D width, V vocabulary.

/// The embedding table.
struct Embedding {
  Tensor weight_VD;
  std::optional<LoraWeights> lora = std::nullopt;
  std::optional<TrainedRows> rows = std::nullopt;  ///< also used by a tied head without rows of its own
};

/// The output head. A tied head has no weight of its own, unless it is held in another type than the embedding.
struct OutputHead {
  Tensor weight_VD;
  Tensor bias_V = {};  ///< undefined unless HeadSpec::has_bias
  std::optional<LoraWeights> lora = std::nullopt;
  std::optional<TrainedRows> rows = std::nullopt;
};

/// Learned positions.
struct PositionTable {
  Tensor weight_PD;
};

/// Scores of heads; see AttentionSpec::has_sinks.
struct Sinks {
  Tensor score_H;
};

/// How fast the state of a delta rule decays: exp(-exp(a_log) softplus(x + dt_bias)).
struct DeltaDecay {
  Tensor a_log_H, dt_bias_H;
};

/// A token mixer other than attention; its output projection is the layer's o_proj.
struct MixerModules {
  Linear in_proj;                           ///< of a short convolution
  Linear qkv_proj, z_proj, b_proj, a_proj;  ///< of a delta rule
  Linear qkvz_proj, ba_proj;                ///< where it is_grouped
  CausalConv conv;
  DeltaDecay decay;
  Norm norm;
};

/// The router of a layer's experts. The correction of its choice is a constant.
struct Router {
  Tensor weight_ED, bias_E, correction_E;
};

/// Attention to an encoder's states.
struct CrossModules {
  Linear q_proj, k_proj, v_proj, o_proj;
  Norm before, after;
};

/// Embeddings of the tokens for each layer, side by side: see LayerEmbeddingSpec.
struct LayerTable {
  Tensor weight_VD;
};
struct LayerEmbeddings {
  LayerTable table;
  Linear projection;
  Norm norm;
};

/// What a LayerSpec does not have stays undefined.
struct DecoderLayer {
  Linear q_proj, k_proj, v_proj, qkv_proj, o_proj;
  Norm q_norm, k_norm;
  Linear q_a_proj, q_b_proj, kv_a_proj, kv_b_proj;
  Norm q_a_norm, kv_a_norm;
  Sinks sinks;
  Linear gate_proj, up_proj, gate_up_proj, down_proj;
  Xielu xielu;
  Router router;
  Experts experts;
  Linear shared_weight;
  Norm before_attention, after_attention, before_mlp, after_mlp;
  MixerModules mixer;
  CrossModules cross;
  PositionTable relative_bias;  ///< [buckets, heads]
  Linear embedding_gate, embedding_projection;
  Norm after_embedding;
  Tensor scalar_1;  ///< see LayerSpec::has_scalar
};

/// What the parameters of a module look like.
struct ModuleShape {
  std::vector<std::int64_t> weight;
  bool has_bias = false;
  bool has_weight = true;
  bool is_transposed = false;   ///< the weight is [inputs, outputs]
  bool has_correction = false;  ///< of a Router
};

namespace detail {

template <class Module, class Kind>
inline constexpr bool is_a = std::is_same_v<std::remove_cvref_t<Module>, Kind>;

/// Modules that an adapter may be on.
template <class Module>
concept TakesLora = requires(Module& module) { module.lora; };

inline ModuleShape norm_shape(const NormSpec& norm, std::vector<std::int64_t> weight) {
  return {std::move(weight), norm.has_bias, norm.has_weight};
}

}  // namespace detail

}  // namespace kto
