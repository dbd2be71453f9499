// SPDX-License-Identifier: Apache-2.0
// A decoder's computation as data: a family (families/) reads this description from config.json, and the forward pass
// follows it. As JSON it is the model's identity for resumption and caches. Free of LibTorch.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kto/core/fields.hpp"
#include "kto/io/json.hpp"
#include "kto/nn/activation.hpp"
#include "kto/nn/alibi_spec.hpp"
#include "kto/nn/expert_gate.hpp"
#include "kto/nn/norm_spec.hpp"
#include "kto/nn/relative_bias_spec.hpp"
#include "kto/nn/rope_spec.hpp"

namespace kto {

/// How projections hold queries, keys and values.
enum class QkvLayout {
  separate,  ///< three projections
  gated,     ///< three, and the queries' one has for each head its query and a gate of the head's output
  stacked,   ///< one: all queries, all keys, all values
  grouped    ///< one: for each key/value head its queries, its key and its value
};

/// Norms of queries and keys: over each head with one weight for all of them, unless said otherwise.
struct QkNormSpec {
  NormSpec norm;                ///< of both
  bool over_all_heads = false;  ///< over the heads together
  bool by_head = false;         ///< each head has a weight of its own
  bool after_rope = false;      ///< else before rotary positions
};

/// Queries at position p are multiplied by 1 + beta * log(1 + floor(p / length)).
struct QueryGrowth {
  double beta = 0;          ///< above 0
  std::int64_t length = 0;  ///< tokens
};

/// Latent attention (MLA, arXiv:2405.04434): keys and values are projected from a narrow latent with a norm, and so are
/// the queries where they have a rank. A key's rotary coordinates, its last, are those of one head that all share.
struct LatentSpec {
  std::optional<std::int64_t> query_rank = std::nullopt;  ///< none: queries are projected at once
  std::int64_t rank = 0;                                  ///< of keys and values
  std::int64_t rope_dim = 0;                              ///< rotary coordinates of a head's key
  std::int64_t value_dim = 0;                             ///< coordinates of a head's value
  NormSpec norm;                                          ///< of the latents
  bool bias = false;                                      ///< of the projections to latents
};

/// Where an attention's keys and values come from, if not from projections of its own.
struct KeyValueSpec {
  std::optional<std::size_t> of_layer = std::nullopt;  ///< they are those of an earlier layer
  bool values_are_keys = false;                        ///< as projected, before norm and rotary positions
  std::optional<NormSpec> value_norm = std::nullopt;   ///< over each head; has no weight
};

/// Causal attention.
struct AttentionSpec {
  std::int64_t num_heads = 0;                              ///< of queries
  std::int64_t num_kv_heads = 0;                           ///< of keys and values; num_heads is a multiple
  std::int64_t head_dim = 0;                               ///< coordinates of a head's query and key
  double scale = 1;                                        ///< of the scores
  double soft_cap = 0;                                     ///< scores are cap * tanh(score / cap); 0: no cap
  std::optional<std::int64_t> window = std::nullopt;       ///< how many tokens a token sees, itself included
  std::optional<std::size_t> rope = 0;                     ///< which of ModelSpec::ropes; none: no rotary positions
  std::optional<QkNormSpec> qk_norm = std::nullopt;        ///< of queries and keys
  QkvLayout layout = QkvLayout::separate;                  ///< of the projections
  bool qkv_bias = false;                                   ///< of the projections of queries, keys and values
  bool output_bias = false;                                ///< of the projection of the heads' outputs
  double clip_qkv = 0;                                     ///< projections are clamped to +-clip_qkv; 0: no clamp
  std::optional<QueryGrowth> query_growth = std::nullopt;  ///< none: queries are as projected
  std::optional<AlibiSpec> alibi = std::nullopt;           ///< in place of other positions
  KeyValueSpec kv = {};                                    ///< where keys and values come from
  bool has_sinks = false;  ///< each head has a learned score that takes part in the softmax, without a value
  std::optional<LatentSpec> latent = std::nullopt;  ///< latent attention, in place of layout and head_dim's values
};

/// Coordinates of a head's value.
inline std::int64_t value_dim(const AttentionSpec& spec) {
  return spec.latent ? spec.latent->value_dim : spec.head_dim;
}

/// Whether queries, keys and values have a projection each.
inline bool has_separate_projections(const AttentionSpec& spec) {
  return spec.layout == QkvLayout::separate || spec.layout == QkvLayout::gated;
}

/// In place of attention, a gated short convolution (LFM2, arXiv:2511.23404): output(c * conv(b * x)), where one
/// projection makes b, c and x.
struct ShortConvSpec {
  std::int64_t num_taps = 0;  ///< tokens that the convolution sees
  bool has_bias = false;      ///< of both projections and of the convolution
};

/// In place of attention, the gated delta rule (arXiv:2412.06464): projections, a causal convolution with SiLU of
/// queries, keys and values, the recurrence of nn/delta_rule.hpp, and a norm of each head times a gate.
struct DeltaRuleSpec {
  std::int64_t num_key_heads = 0;            ///< also of queries
  std::int64_t num_value_heads = 0;          ///< a multiple
  std::int64_t key_dim = 0;                  ///< coordinates of a head's key
  std::int64_t value_dim = 0;                ///< coordinates of a head's value
  std::int64_t num_taps = 0;                 ///< of the convolution
  Activation activation = Activation::silu;  ///< after the convolution
  NormSpec norm;                             ///< of each head's values
  bool is_grouped = false;                   ///< two projections, for each key head its parts; else four
};

/// down(activation(gate(x)) * up(x)), or down(activation(up(x))).
struct MlpSpec {
  std::int64_t intermediate_size = 0;        ///< width between the projections
  Activation activation = Activation::silu;  ///< between them
  bool bias = false;                         ///< of all projections
  bool is_gated = true;                      ///< the first of the two forms
  bool is_fused = false;                     ///< one projection makes gate and up, in that order
  bool is_xielu = false;  ///< the activation is xIELU, which has parameters, in place of `activation`
};

/// How a token's experts and their weights follow from the router's logits.
enum class Routing {
  softmax_first,   ///< the largest of the softmax over all experts
  softmax_last,    ///< the softmax over the largest logits
  sigmoid_groups,  ///< the largest of sigmoid + correction, in those groups whose best two are largest
  sparse_mixer     ///< two, each by a softmax over the logits near the largest (arXiv:2409.12136, without sampling)
};

/// Which experts a token has, and with which weights.
struct RouterSpec {
  Routing routing = Routing::softmax_first;  ///< from logits to weights
  bool has_bias = false;                     ///< of the logits
  bool normalizes = false;                   ///< the weights are divided by their sum
  double scale = 1;                          ///< of the weights
  std::int64_t num_groups = 1;               ///< of experts; see Routing::sigmoid_groups
  std::int64_t top_groups = 1;               ///< how many of the groups a token may use
  double jitter = 0;  ///< of sparse_mixer: half the relative distance from the largest logit that counts as near
  std::optional<double> aux_loss_coef =
      std::nullopt;  ///< of the load-balancing loss; none: the family has no such loss
};

/// Experts in place of a feed-forward part. With a shared expert that part, LayerSpec::mlp, is added to their sum.
struct ExpertsSpec {
  std::int64_t num_experts = 0;        ///< in all
  std::int64_t per_token = 0;          ///< how many a token has
  std::int64_t intermediate_size = 0;  ///< width between an expert's projections
  RouterSpec router = {};              ///< which experts a token has
  ExpertGate gate = {};                ///< between an expert's projections
  bool has_bias = false;               ///< of the experts' projections
  bool is_transposed = false;          ///< weights are [experts, inputs, outputs]
  bool has_shared = false;             ///< an expert that all tokens have
  bool weighs_shared = false;          ///< the shared expert is multiplied by the sigmoid of a linear layer
};

/// Attention to the states of an encoder, between a layer's own attention and its feed-forward part.
struct CrossSpec {
  AttentionSpec attention;                ///< its queries are the layer's
  std::optional<NormSpec> before, after;  ///< as in LayerSpec
};

/// Each layer's embeddings of the tokens, e, beside the model's, h: (norm(projection(h)) + e) / sqrt(2). They gate what
/// the layer adds at its end: norm(projection(activation(gate(x)) * e)).
struct LayerEmbeddingSpec {
  std::int64_t vocab_size = 0;               ///< tokens
  std::int64_t width = 0;                    ///< of a layer's embedding
  Activation activation = Activation::silu;  ///< of the gate
  NormSpec norm;                             ///< both
};

/// x + after(mixer(before(x))), where the mixer is the attention or what replaces it, then the same with the
/// feed-forward part; or, in parallel, both from one x.
struct LayerSpec {
  AttentionSpec attention;                                    ///< unless short_conv or delta_rule replaces it
  MlpSpec mlp;                                                ///< the feed-forward part, or the shared expert
  std::optional<NormSpec> before_attention, after_attention;  ///< of the mixer, whichever it is
  std::optional<NormSpec> before_mlp, after_mlp;  ///< in parallel without before_mlp: the input of the attention
  bool is_parallel = false;                       ///< both parts read one x
  double residual_scale = 1;                      ///< of what is added to x
  bool normalizes_sums = false;  ///< the norms are of the sums: after(x + attention(x)), and no norm stands before
  std::optional<ExpertsSpec> experts = std::nullopt;             ///< in place of the feed-forward part, or beside it
  std::optional<ShortConvSpec> short_conv = std::nullopt;        ///< in place of the attention
  std::optional<DeltaRuleSpec> delta_rule = std::nullopt;        ///< in place of the attention
  std::optional<CrossSpec> cross = std::nullopt;                 ///< of an encoder-decoder's decoder
  std::optional<RelativeBiasSpec> relative_bias = std::nullopt;  ///< of the layer's own attention
  std::optional<LayerEmbeddingSpec> embedding = std::nullopt;    ///< all layers have the same
  bool has_scalar = false;                                       ///< the layer's output is multiplied by a constant

  /// Whether the mixer is attention.
  bool has_attention() const { return !short_conv && !delta_rule; }
};

/// transformers' names of modules; those of a layer follow the layer's own.
struct LatentNames {
  /// The projections to and from the latents, and the latents' norms.
  std::string q_a = "self_attn.q_a_proj", q_b = "self_attn.q_b_proj", kv_a = "self_attn.kv_a_proj_with_mqa",
              kv_b = "self_attn.kv_b_proj", q_norm = "self_attn.q_a_layernorm", kv_norm = "self_attn.kv_a_layernorm";
};

/// The names of an attention's parts.
struct AttentionNames {
  /// Projections, or the one of them all, norms and sinks.
  std::string q = "self_attn.q_proj", k = "self_attn.k_proj", v = "self_attn.v_proj", qkv = "self_attn.qkv_proj",
              output = "self_attn.o_proj", q_norm = "self_attn.q_norm", k_norm = "self_attn.k_norm",
              sinks = "self_attn.sinks";
  LatentNames latent = {};  ///< of latent attention
};

/// How files hold the experts of a layer.
enum class ExpertFiles {
  fused,    ///< as the model does
  renamed,  ///< the same tensors as stored_gate_up, stored_down, stored_router
  split     ///< each expert's linear layers: split + number + "." + split_gate + ".weight", and so on; stored_router
};

/// The names of the experts' parts in the model, and those that files may have in their place.
struct ExpertsNames {
  std::string router = "mlp.gate", experts = "mlp.experts";  ///< in the model
  /// The shared expert's projections, and the linear layer that weighs it.
  std::string shared_gate = "mlp.shared_expert.gate_proj", shared_up = "mlp.shared_expert.up_proj",
              shared_down = "mlp.shared_expert.down_proj", shared_weight = "mlp.shared_expert_gate";
  std::string stored_router = "", stored_gate_up = "", stored_down = "";  ///< in files, see ExpertFiles
  /// In files with experts one by one, see ExpertFiles::split.
  std::string split = "mlp.experts.", split_gate = "gate_proj", split_up = "up_proj", split_down = "down_proj";
  ExpertFiles files = ExpertFiles::fused;  ///< which names files have
};

/// The names of a layer's parts, which follow the layer's own.
struct LayerNames {
  AttentionNames attention;   ///< the layer's own
  std::string mixer = "";     ///< the module that some layers have in place of the attention
  ExpertsNames experts = {};  ///< in place of the feed-forward part, or beside it
  /// The feed-forward part's projections and activation.
  std::string gate = "mlp.gate_proj", up = "mlp.up_proj", gate_up = "mlp.gate_up_proj", down = "mlp.down_proj",
              activation = "mlp.act_fn";
  /// Norms.
  std::string before_attention = "input_layernorm", after_attention = "", before_mlp = "post_attention_layernorm",
              after_mlp = "";
  AttentionNames cross = {};                        ///< of the attention to an encoder
  std::string before_cross = "", after_cross = "";  ///< its norms
  std::string relative_bias = "";                   ///< the table of LayerSpec::relative_bias
};

/// The names of a model's parts.
struct ModuleNames {
  /// Token embeddings, what a layer's number follows, the norm after the last layer, and the head.
  std::string embedding = "model.embed_tokens", layers = "model.layers.", last_norm = "model.norm", head = "lm_head";
  std::string prefix = "model.";                    ///< what a checkpoint of the bare backbone omits
  std::string stored_head = "";                     ///< how files name the head, if not as `head`
  std::string positions = "", embedding_norm = "";  ///< the table of positions, and the norm of the embeddings
  std::string logits_constant = "";                 ///< added to the logits and not trained; none where empty
  std::vector<std::string> embedding_copies = {};   ///< under which files may hold the embedding once more
  LayerNames layer;                                 ///< of all layers
  bool has_layer_after_last = false;  ///< in files: for the token after the next one, ignored as in transformers
  std::string wrapper = "", wrapper_path = "";  ///< the multimodal model's type, and its path in place of `prefix`
};

/// logits = soft_cap * tanh(z / soft_cap) with z = scale * (hidden weight^T + bias); no cap if soft_cap is 0.
struct HeadSpec {
  double scale = 1;       ///< of z
  double soft_cap = 0;    ///< bound of the logits
  bool has_bias = false;  ///< of the linear layer
};

/// A learned table of positions, added to the embeddings: row `position + offset`.
struct PositionsSpec {
  std::int64_t count = 0;   ///< rows of the table
  std::int64_t offset = 0;  ///< rows before that of the first token
};

struct EncoderSpec;

/// A decoder, alone or with an encoder: embedding, layers, norm, head.
struct ModelSpec {
  std::string model_type;                            ///< the family, as config.json has it
  std::int64_t vocab_size = 0;                       ///< tokens
  std::int64_t hidden_size = 0;                      ///< width of the states between layers
  double embedding_scale = 1;                        ///< of the token embeddings
  std::vector<LayerSpec> layers;                     ///< from the first on
  std::vector<RopeConfig> ropes;                     ///< rotary positions, those that layers use by their index
  std::optional<NormSpec> last_norm = std::nullopt;  ///< after the last layer
  HeadSpec head;                                     ///< from states to logits
  bool tie_word_embeddings = false;                  ///< the head's weight is the embedding's
  std::optional<std::int64_t> pad_token_id =
      std::nullopt;                                       ///< its embedding gets no gradient, as in torch.nn.Embedding
  double attention_dropout = 0;                           ///< as in the file; never applied
  ModuleNames names;                                      ///< as in transformers
  std::optional<PositionsSpec> positions = std::nullopt;  ///< a table of them, in place of rotary ones
  std::optional<NormSpec> embedding_norm = std::nullopt;  ///< before the first layer
  bool linears_are_transposed = false;                    ///< the layers' weights are stored as [inputs, outputs]
  std::vector<EncoderSpec> encoder;  ///< none, or one: the model is an encoder-decoder, and this is the decoder
};

/// What reads the prompts of an encoder-decoder model.
struct EncoderSpec {
  ModelSpec stack;                  ///< its layers attend in both directions; the embedding is the decoder's
  std::int64_t start_token_id = 0;  ///< what the decoder reads before its first token
};

/// How many tokens a sequence may have, where the model has learned positions.
inline std::optional<std::int64_t> max_positions(const ModelSpec& spec) {
  return spec.positions ? std::optional(spec.positions->count - spec.positions->offset) : std::nullopt;
}

/// A description as JSON: an array of all members' values, so none can be forgotten.
template <class T>
Json spec_json(const T& value) {
  if constexpr (requires { value.has_value(); }) {
    return value ? spec_json(*value) : Json();
  } else if constexpr (std::is_enum_v<T>) {
    return static_cast<int>(value);
  } else if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string>) {
    return value;
  } else {
    Json out = Json::array();
    if constexpr (requires { value.begin(); })
      for (const auto& item : value) out.push_back(spec_json(item));
    else
      visit_fields(value, [&](const auto& member) { out.push_back(spec_json(member)); });
    return out;
  }
}

/// Everything besides the parameters that the numbers of such a decoder depend on, as text.
inline std::string describe(const ModelSpec& spec) { return spec_json(spec).dump(); }

}  // namespace kto
