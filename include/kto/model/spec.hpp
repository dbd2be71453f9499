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
  NormSpec norm;
  bool over_all_heads = false;  ///< over the heads together
  bool by_head = false;         ///< each head has a weight of its own
  bool after_rope = false;
};

/// Queries at position p are multiplied by 1 + beta * log(1 + floor(p / length)).
struct QueryGrowth {
  double beta = 0;
  std::int64_t length = 0;
};

/// Latent attention (MLA, arXiv:2405.04434): keys and values are projected from a narrow latent with a norm, and so are
/// the queries where they have a rank. A key's rotary coordinates, its last, are those of one head that all share.
struct LatentSpec {
  std::optional<std::int64_t> query_rank = std::nullopt;
  std::int64_t rank = 0;  ///< of keys and values
  std::int64_t rope_dim = 0;
  std::int64_t value_dim = 0;
  NormSpec norm;
  bool bias = false;  ///< of the projections to latents
};

/// Where an attention's keys and values come from, if not from projections of its own.
struct KeyValueSpec {
  std::optional<std::size_t> of_layer = std::nullopt;  ///< they are those of an earlier layer
  bool values_are_keys = false;                        ///< as projected, before norm and rotary positions
  std::optional<NormSpec> value_norm = std::nullopt;   ///< over each head; has no weight
};

/// Causal attention.
struct AttentionSpec {
  std::int64_t num_heads = 0;
  std::int64_t num_kv_heads = 0;  ///< num_heads is a multiple
  std::int64_t head_dim = 0;
  double scale = 1;                                   ///< of the scores
  double soft_cap = 0;                                ///< scores are cap * tanh(score / cap); 0: no cap
  std::optional<std::int64_t> window = std::nullopt;  ///< how many tokens a token sees, itself included
  std::optional<std::size_t> rope = 0;                ///< which of ModelSpec::ropes; none: no rotary positions
  std::optional<QkNormSpec> qk_norm = std::nullopt;
  QkvLayout layout = QkvLayout::separate;
  bool qkv_bias = false;
  bool output_bias = false;
  double clip_qkv = 0;  ///< projections are clamped to +-clip_qkv; 0: no clamp
  std::optional<QueryGrowth> query_growth = std::nullopt;
  std::optional<AlibiSpec> alibi = std::nullopt;
  KeyValueSpec kv = {};
  bool has_sinks = false;  ///< each head has a learned score that takes part in the softmax, without a value
  std::optional<LatentSpec> latent = std::nullopt;
};

/// Coordinates of a head's value.
inline std::int64_t value_dim(const AttentionSpec& spec) {
  return spec.latent ? spec.latent->value_dim : spec.head_dim;
}

inline bool has_separate_projections(const AttentionSpec& spec) {
  return spec.layout == QkvLayout::separate || spec.layout == QkvLayout::gated;
}

/// In place of attention, a gated short convolution (LFM2, arXiv:2511.23404): output(c * conv(b * x)), where one
/// projection makes b, c and x.
struct ShortConvSpec {
  std::int64_t num_taps = 0;
  bool has_bias = false;  ///< of both projections and of the convolution
};

/// In place of attention, the gated delta rule (arXiv:2412.06464): projections, a causal convolution with SiLU of
/// queries, keys and values, the recurrence of nn/delta_rule.hpp, and a norm of each head times a gate.
struct DeltaRuleSpec {
  std::int64_t num_key_heads = 0;    ///< also of queries
  std::int64_t num_value_heads = 0;  ///< a multiple
  std::int64_t key_dim = 0;
  std::int64_t value_dim = 0;
  std::int64_t num_taps = 0;                 ///< of the convolution
  Activation activation = Activation::silu;  ///< after the convolution
  NormSpec norm;                             ///< of each head's values
  bool is_grouped = false;                   ///< two projections, for each key head its parts; else four
};

/// down(activation(gate(x)) * up(x)), or down(activation(up(x))).
struct MlpSpec {
  std::int64_t intermediate_size = 0;
  Activation activation = Activation::silu;
  bool bias = false;
  bool is_gated = true;
  bool is_fused = false;  ///< one projection makes gate and up, in that order
  bool is_xielu = false;  ///< the activation is xIELU, which has parameters, in place of `activation`
};

/// How a token's experts and their weights follow from the router's logits.
enum class Routing {
  softmax_first,   ///< the largest of the softmax over all experts
  softmax_last,    ///< the softmax over the largest logits
  sigmoid_groups,  ///< the largest of sigmoid + correction, in those groups whose best two are largest
  sparse_mixer     ///< two, each by a softmax over the logits near the largest (arXiv:2409.12136, without sampling)
};

struct RouterSpec {
  Routing routing = Routing::softmax_first;
  bool has_bias = false;
  bool normalizes = false;  ///< the weights are divided by their sum
  double scale = 1;         ///< of the weights
  std::int64_t num_groups = 1;
  std::int64_t top_groups = 1;
  double jitter = 0;  ///< of sparse_mixer: half the relative distance from the largest logit that counts as near
  std::optional<double> aux_loss_coef =
      std::nullopt;  ///< of the load-balancing loss; none: the family has no such loss
};

/// Experts in place of a feed-forward part. With a shared expert that part, LayerSpec::mlp, is added to their sum.
struct ExpertsSpec {
  std::int64_t num_experts = 0;
  std::int64_t per_token = 0;
  std::int64_t intermediate_size = 0;
  RouterSpec router = {};
  ExpertGate gate = {};
  bool has_bias = false;
  bool is_transposed = false;  ///< weights are [experts, inputs, outputs]
  bool has_shared = false;
  bool weighs_shared = false;  ///< the shared expert is multiplied by the sigmoid of a linear layer
};

/// Attention to the states of an encoder, between a layer's own attention and its feed-forward part.
struct CrossSpec {
  AttentionSpec attention;
  std::optional<NormSpec> before, after;
};

/// Each layer's embeddings of the tokens, e, beside the model's, h: (norm(projection(h)) + e) / sqrt(2). They gate what
/// the layer adds at its end: norm(projection(activation(gate(x)) * e)).
struct LayerEmbeddingSpec {
  std::int64_t vocab_size = 0;
  std::int64_t width = 0;
  Activation activation = Activation::silu;
  NormSpec norm;  ///< both
};

/// x + after(mixer(before(x))), where the mixer is the attention or what replaces it, then the same with the
/// feed-forward part; or, in parallel, both from one x.
struct LayerSpec {
  AttentionSpec attention;
  MlpSpec mlp;
  std::optional<NormSpec> before_attention, after_attention;
  std::optional<NormSpec> before_mlp, after_mlp;  ///< in parallel without before_mlp: the input of the attention
  bool is_parallel = false;
  double residual_scale = 1;     ///< of what is added to x
  bool normalizes_sums = false;  ///< the norms are of the sums: after(x + attention(x)), and no norm stands before
  std::optional<ExpertsSpec> experts = std::nullopt;
  std::optional<ShortConvSpec> short_conv = std::nullopt;  ///< in place of the attention
  std::optional<DeltaRuleSpec> delta_rule = std::nullopt;  ///< in place of the attention
  std::optional<CrossSpec> cross = std::nullopt;
  std::optional<RelativeBiasSpec> relative_bias = std::nullopt;  ///< of the layer's own attention
  std::optional<LayerEmbeddingSpec> embedding = std::nullopt;    ///< all layers have the same
  bool has_scalar = false;                                       ///< the layer's output is multiplied by a constant

  bool has_attention() const { return !short_conv && !delta_rule; }
};

/// transformers' names of modules; those of a layer follow the layer's own.
struct LatentNames {
  std::string q_a = "self_attn.q_a_proj", q_b = "self_attn.q_b_proj", kv_a = "self_attn.kv_a_proj_with_mqa",
              kv_b = "self_attn.kv_b_proj", q_norm = "self_attn.q_a_layernorm", kv_norm = "self_attn.kv_a_layernorm";
};
struct AttentionNames {
  std::string q = "self_attn.q_proj", k = "self_attn.k_proj", v = "self_attn.v_proj", qkv = "self_attn.qkv_proj",
              output = "self_attn.o_proj", q_norm = "self_attn.q_norm", k_norm = "self_attn.k_norm",
              sinks = "self_attn.sinks";
  LatentNames latent = {};
};

/// How files hold the experts of a layer.
enum class ExpertFiles {
  fused,    ///< as the model does
  renamed,  ///< the same tensors as stored_gate_up, stored_down, stored_router
  split     ///< each expert's linear layers: split + number + "." + split_gate + ".weight", and so on; stored_router
};

/// The names of the experts' parts in the model, and those that files may have in their place.
struct ExpertsNames {
  std::string router = "mlp.gate", experts = "mlp.experts";
  std::string shared_gate = "mlp.shared_expert.gate_proj", shared_up = "mlp.shared_expert.up_proj",
              shared_down = "mlp.shared_expert.down_proj", shared_weight = "mlp.shared_expert_gate";
  std::string stored_router = "", stored_gate_up = "", stored_down = "";
  std::string split = "mlp.experts.", split_gate = "gate_proj", split_up = "up_proj", split_down = "down_proj";
  ExpertFiles files = ExpertFiles::fused;
};
struct LayerNames {
  AttentionNames attention;
  std::string mixer = "";  ///< the module that some layers have in place of the attention
  ExpertsNames experts = {};
  std::string gate = "mlp.gate_proj", up = "mlp.up_proj", gate_up = "mlp.gate_up_proj", down = "mlp.down_proj",
              activation = "mlp.act_fn";
  std::string before_attention = "input_layernorm", after_attention = "", before_mlp = "post_attention_layernorm",
              after_mlp = "";
  AttentionNames cross = {};
  std::string before_cross = "", after_cross = "", relative_bias = "";
};
struct ModuleNames {
  std::string embedding = "model.embed_tokens", layers = "model.layers.", last_norm = "model.norm", head = "lm_head";
  std::string prefix = "model.";  ///< what a checkpoint of the bare backbone omits
  std::string stored_head = "";   ///< how files name the head, if not as `head`
  std::string positions = "", embedding_norm = "";
  std::string logits_constant = "";                ///< added to the logits and not trained; none where empty
  std::vector<std::string> embedding_copies = {};  ///< under which files may hold the embedding once more
  LayerNames layer;
  bool has_layer_after_last = false;  ///< in files: for the token after the next one, ignored as in transformers
  std::string wrapper = "", wrapper_path = "";  ///< the multimodal model's type, and its path in place of `prefix`
};

/// logits = soft_cap * tanh(z / soft_cap) with z = scale * (hidden weight^T + bias); no cap if soft_cap is 0.
struct HeadSpec {
  double scale = 1;
  double soft_cap = 0;
  bool has_bias = false;
};

/// A learned table of positions, added to the embeddings: row `position + offset`.
struct PositionsSpec {
  std::int64_t count = 0;
  std::int64_t offset = 0;
};

struct EncoderSpec;

struct ModelSpec {
  std::string model_type;
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  double embedding_scale = 1;
  std::vector<LayerSpec> layers;
  std::vector<RopeConfig> ropes;
  std::optional<NormSpec> last_norm = std::nullopt;
  HeadSpec head;
  bool tie_word_embeddings = false;
  std::optional<std::int64_t> pad_token_id =
      std::nullopt;              ///< its embedding gets no gradient, as in torch.nn.Embedding
  double attention_dropout = 0;  ///< as in the file; never applied
  ModuleNames names;
  std::optional<PositionsSpec> positions = std::nullopt;
  std::optional<NormSpec> embedding_norm = std::nullopt;
  bool linears_are_transposed = false;  ///< the layers' weights are stored as [inputs, outputs]
  std::vector<EncoderSpec> encoder;     ///< none, or one: the model is an encoder-decoder, and this is the decoder
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
