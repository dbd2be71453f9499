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
#include "kto/nn/rope_spec.hpp"

namespace kto {

/// A norm over the last dimension: x / rms(x) or (x - mean) / std, times (weight + offset), plus a bias.
struct NormSpec {
  bool is_layer_norm = false;  ///< else the root mean square norm
  double eps = 1e-6;
  double offset = 0;  ///< of the weight
  bool has_weight = true;
  bool has_bias = false;
};

/// How projections hold queries, keys and values.
enum class QkvLayout {
  separate,  ///< three projections
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

/// Each layer's embeddings of the tokens, e, beside the model's, h: (norm(projection(h)) + e) / sqrt(2). They gate what
/// the layer adds at its end: norm(projection(activation(gate(x)) * e)).
struct LayerEmbeddingSpec {
  std::int64_t vocab_size = 0;
  std::int64_t width = 0;
  Activation activation = Activation::silu;
  NormSpec norm;  ///< both
};

/// x + after(attention(before(x))), then the same with the feed-forward part; or, in parallel, both from one x.
struct LayerSpec {
  AttentionSpec attention;
  MlpSpec mlp;
  std::optional<NormSpec> before_attention, after_attention;
  std::optional<NormSpec> before_mlp, after_mlp;  ///< in parallel without before_mlp: the input of the attention
  bool is_parallel = false;
  double residual_scale = 1;     ///< of what is added to x
  bool normalizes_sums = false;  ///< the norms are of the sums: after(x + attention(x)), and no norm stands before
  std::optional<LayerEmbeddingSpec> embedding = std::nullopt;  ///< all layers have the same
  bool has_scalar = false;                                     ///< the layer's output is multiplied by a constant
};

/// transformers' names of modules; those of a layer follow the layer's own.
struct AttentionNames {
  std::string q = "self_attn.q_proj", k = "self_attn.k_proj", v = "self_attn.v_proj", qkv = "self_attn.qkv_proj",
              output = "self_attn.o_proj", q_norm = "self_attn.q_norm", k_norm = "self_attn.k_norm";
};
struct LayerNames {
  AttentionNames attention;
  std::string gate = "mlp.gate_proj", up = "mlp.up_proj", gate_up = "mlp.gate_up_proj", down = "mlp.down_proj",
              activation = "mlp.act_fn";
  std::string before_attention = "input_layernorm", after_attention = "", before_mlp = "post_attention_layernorm",
              after_mlp = "";
};
struct ModuleNames {
  std::string embedding = "model.embed_tokens", layers = "model.layers.", last_norm = "model.norm", head = "lm_head";
  std::string prefix = "model.";  ///< what a checkpoint of the bare backbone omits
  std::string stored_head = "";   ///< how files name the head, if not as `head`
  std::string positions = "", embedding_norm = "";
  LayerNames layer;
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
